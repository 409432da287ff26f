//! Shares and counters of a container's groups, as `events` prints them: runc's names.

use super::{Group, has};
use serde::Serialize;
use std::{fs, path::Path};

/// All of it; what the processor lacks is left out.
#[derive(Debug, Default, Serialize)]
pub struct Stats {
    #[serde(skip_serializing_if = "Option::is_none")]
    l3_cache_info: Option<CacheInfo>,
    #[serde(skip_serializing_if = "String::is_empty")]
    l3_cache_schema_root: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    l3_cache_schema: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    mem_bw_info: Option<BandwidthInfo>,
    #[serde(skip_serializing_if = "String::is_empty")]
    mem_bw_schema_root: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    mem_bw_schema: String,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    schemata: Vec<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[serde(rename = "mbm_stats")]
    bandwidth: Vec<Bandwidth>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[serde(rename = "cmt_stats")]
    occupancy: Vec<Occupancy>,
}

#[derive(Debug, Serialize)]
struct CacheInfo {
    cbm_mask: String,
    min_cbm_bits: u64,
    num_closids: u64,
}

#[derive(Debug, Serialize)]
struct BandwidthInfo {
    bandwidth_gran: u64,
    delay_linear: u64,
    min_bandwidth: u64,
    num_closids: u64,
}

/// Bytes, of one memory node.
#[derive(Debug, Serialize)]
struct Bandwidth {
    mbm_total_bytes: u64,
    mbm_local_bytes: u64,
}

/// Bytes of one cache.
#[derive(Debug, Serialize)]
struct Occupancy {
    llc_occupancy: u64,
}

fn text(dir: &Path, name: &str) -> String {
    fs::read_to_string(dir.join(name)).map(|text| text.trim().to_owned()).unwrap_or_default()
}

/// Counters that cannot be read now say `Unavailable`.
fn number(dir: &Path, name: &str) -> u64 {
    text(dir, name).parse().unwrap_or_default()
}

/// Reads what there is.
pub fn stats(group: &Group) -> Stats {
    let root = &group.root;
    let lines = |dir: &Path| -> Vec<String> { text(dir, "schemata").lines().map(|it| it.trim().to_owned()).collect() };
    let (of_root, own) = (lines(root), lines(&group.class));
    let line = |lines: &[String], name: &str| lines.iter().rfind(|it| it.contains(name)).cloned().unwrap_or_default();
    let mut stats = Stats { schemata: own.clone(), ..Stats::default() };
    if has(root, "L3") {
        let info = root.join("info/L3");
        stats.l3_cache_info = Some(CacheInfo {
            cbm_mask: text(&info, "cbm_mask"),
            min_cbm_bits: number(&info, "min_cbm_bits"),
            num_closids: number(&info, "num_closids"),
        });
        (stats.l3_cache_schema_root, stats.l3_cache_schema) = (line(&of_root, "L3"), line(&own, "L3"));
    }
    if has(root, "MB") {
        let info = root.join("info/MB");
        stats.mem_bw_info = Some(BandwidthInfo {
            bandwidth_gran: number(&info, "bandwidth_gran"),
            delay_linear: number(&info, "delay_linear"),
            min_bandwidth: number(&info, "min_bandwidth"),
            num_closids: number(&info, "num_closids"),
        });
        (stats.mem_bw_schema_root, stats.mem_bw_schema) = (line(&of_root, "MB"), line(&own, "MB"));
    }
    let features = text(&root.join("info/L3_MON"), "mon_features");
    let has_feature = |name: &str| features.lines().any(|it| it == name);
    let counters = group.monitor.as_ref().unwrap_or(&group.class).join("mon_data");
    let mut nodes: Vec<_> = fs::read_dir(counters).into_iter().flatten().flatten().map(|it| it.path()).collect();
    nodes.sort();
    for node in nodes {
        if has_feature("mbm_total_bytes") || has_feature("mbm_local_bytes") {
            stats.bandwidth.push(Bandwidth {
                mbm_total_bytes: number(&node, "mbm_total_bytes"),
                mbm_local_bytes: number(&node, "mbm_local_bytes"),
            });
        }
        if has_feature("llc_occupancy") {
            stats.occupancy.push(Occupancy { llc_occupancy: number(&node, "llc_occupancy") });
        }
    }
    stats
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_kernel_shows_has_runcs_names() {
        let dir = tempfile::tempdir().unwrap();
        for (file, content) in [
            ("info/L3/cbm_mask", "ff\n"),
            ("info/L3/min_cbm_bits", "1\n"),
            ("info/L3/num_closids", "16\n"),
            ("info/L3_MON/mon_features", "llc_occupancy\nmbm_total_bytes\n"),
            ("schemata", "    L3:0=ff\n"),
            ("web/schemata", "    L3:0=f\n"),
            ("web/mon_data/mon_L3_00/llc_occupancy", "7\n"),
            ("web/mon_data/mon_L3_00/mbm_total_bytes", "Unavailable\n"),
        ] {
            let path = dir.path().join(file);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, content).unwrap();
        }
        let root = dir.path().to_owned();
        let group = Group { class: root.join("web"), root, own_class: true, monitor: None };
        assert_eq!(
            serde_json::to_string(&stats(&group)).unwrap(),
            r#"{"l3_cache_info":{"cbm_mask":"ff","min_cbm_bits":1,"num_closids":16},"l3_cache_schema_root":"L3:0=ff","l3_cache_schema":"L3:0=f","schemata":["L3:0=f"],"mbm_stats":[{"mbm_total_bytes":0,"mbm_local_bytes":0}],"cmt_stats":[{"llc_occupancy":7}]}"#
        );
    }
}
