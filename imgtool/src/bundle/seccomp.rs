//! Docker's default seccomp profile, as the runtime specification writes it.
//!
//! The table `seccomp.json` has the rules of moby's published profile; which of them hold depends on the container's
//! capabilities, the architecture and the kernel, and is decided here, when the bundle is made.

use serde::Deserialize;
use serde_json::{Value, json};

use crate::error::{Error, Result};

const TABLE: &str = include_str!("seccomp.json");
/// What a refused call returns: EPERM.
const DEFAULT_ERRNO: u32 = 1;

#[derive(Deserialize)]
struct Table {
    architectures: std::collections::BTreeMap<String, Vec<String>>,
    rules: Vec<Rule>,
}

#[derive(Deserialize)]
struct Rule {
    /// Each string has several names.
    names: Vec<String>,
    #[serde(default)]
    with_caps: Vec<String>,
    #[serde(default)]
    without_caps: Vec<String>,
    #[serde(default)]
    arches: Vec<String>,
    #[serde(default)]
    not_arches: Vec<String>,
    #[serde(default)]
    min_kernel: Option<(u32, u32)>,
    /// Argument number, comparison, value.
    #[serde(default)]
    args: Vec<(u32, String, u64)>,
    /// Refused with this error instead of allowed.
    errno: Option<u32>,
}

/// The facts that the profile depends on.
pub(super) struct Facts<'a> {
    /// In Go's names.
    pub(super) architecture: &'a str,
    pub(super) kernel: (u32, u32),
    /// The bounding set, as `CAP_NAME`.
    pub(super) capabilities: &'a [String],
}

impl Rule {
    fn holds(&self, facts: &Facts<'_>) -> bool {
        let has = |cap: &String| facts.capabilities.contains(cap);
        let is = |architecture: &String| architecture == facts.architecture;
        self.with_caps.iter().all(has)
            && !self.without_caps.iter().any(has)
            && (self.arches.is_empty() || self.arches.iter().any(is))
            && !self.not_arches.iter().any(is)
            && self.min_kernel.is_none_or(|least| facts.kernel >= least)
    }
}

/// The `linux.seccomp` of config.json.
pub(super) fn profile(facts: &Facts<'_>) -> Result<Value> {
    let table: Table = serde_json::from_str(TABLE).map_err(|e| Error::other(format!("built-in seccomp table: {e}")))?;
    let Some(architectures) = table.architectures.get(facts.architecture) else {
        return Err(Error::other(format!("no seccomp profile for {}", facts.architecture)));
    };
    let rules: Vec<Value> = table
        .rules
        .iter()
        .filter(|rule| rule.holds(facts))
        .map(|rule| {
            let names: Vec<&str> = rule.names.iter().flat_map(|line| line.split(' ')).collect();
            let mut value = match rule.errno {
                Some(errno) => json!({"names": names, "action": "SCMP_ACT_ERRNO", "errnoRet": errno}),
                None => json!({"names": names, "action": "SCMP_ACT_ALLOW"}),
            };
            if !rule.args.is_empty() {
                let arg = |(index, op, value): &(u32, String, u64)| json!({"index": index, "value": value, "op": op});
                value["args"] = rule.args.iter().map(arg).collect();
            }
            value
        })
        .collect();
    Ok(json!({
        "defaultAction": "SCMP_ACT_ERRNO",
        "defaultErrnoRet": DEFAULT_ERRNO,
        "architectures": architectures,
        "syscalls": rules,
    }))
}

/// Major and minor version of the running kernel.
pub(super) fn kernel_version() -> (u32, u32) {
    let uname = rustix::system::uname();
    let release = uname.release().to_string_lossy();
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map(|n| n.parse().unwrap_or(0));
    (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn actions(caps: &[&str], architecture: &str, kernel: (u32, u32), name: &str) -> Vec<String> {
        let capabilities: Vec<String> = caps.iter().map(|c| format!("CAP_{c}")).collect();
        let profile = profile(&Facts { architecture, kernel, capabilities: &capabilities }).unwrap();
        let rules = profile["syscalls"].as_array().unwrap().clone();
        let has = |rule: &Value| rule["names"].as_array().unwrap().iter().any(|n| n == name);
        rules
            .into_iter()
            .filter(has)
            .map(|r| r["action"].as_str().unwrap().trim_start_matches("SCMP_ACT_").to_owned())
            .collect()
    }

    #[test]
    fn capabilities_open_their_calls() {
        assert!(actions(&[], "amd64", (6, 1), "mount").is_empty());
        assert_eq!(actions(&["SYS_ADMIN"], "amd64", (6, 1), "mount"), ["ALLOW"]);
        assert_eq!(actions(&[], "amd64", (6, 1), "clone3"), ["ERRNO"]);
        assert_eq!(actions(&["SYS_ADMIN"], "amd64", (6, 1), "clone3"), ["ALLOW"]);
        assert!(actions(&[], "amd64", (6, 1), "chroot").is_empty());
        assert_eq!(actions(&["SYS_CHROOT"], "amd64", (6, 1), "chroot"), ["ALLOW"]);
        assert!(actions(&[], "amd64", (4, 4), "ptrace").is_empty());
        assert_eq!(actions(&[], "amd64", (4, 8), "ptrace"), ["ALLOW"]);
        assert_eq!(actions(&[], "amd64", (6, 1), "read"), ["ALLOW"]);
        for never in ["kexec_load", "add_key", "keyctl", "userfaultfd", "io_uring_setup", "create_module", "swapon"] {
            assert!(actions(&[], "amd64", (6, 1), never).is_empty(), "{never}");
        }
        assert_eq!(actions(&[], "amd64", (6, 1), "arch_prctl"), ["ALLOW"]);
        assert!(actions(&[], "arm64", (6, 1), "arch_prctl").is_empty());
    }

    #[test]
    fn clone_is_allowed_without_namespaces_only() {
        let profile = profile(&Facts { architecture: "amd64", kernel: (6, 1), capabilities: &[] }).unwrap();
        let rules = profile["syscalls"].as_array().unwrap();
        let clone = rules.iter().find(|r| r["names"] == json!(["clone"])).unwrap();
        assert_eq!(clone["args"], json!([{"index": 0, "value": 0x7E02_0000, "op": "SCMP_CMP_MASKED_EQ"}]));
    }

    #[test]
    fn every_architecture_has_the_common_calls() {
        for architecture in ["amd64", "arm64", "s390x", "riscv64", "loong64", "ppc64le", "arm", "386"] {
            assert_eq!(actions(&[], architecture, (6, 1), "openat"), ["ALLOW"]);
        }
        assert!(super::profile(&Facts { architecture: "vax", kernel: (6, 1), capabilities: &[] }).is_err());
    }
}
