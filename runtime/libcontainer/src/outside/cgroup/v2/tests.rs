use super::*;
use crate::{error::Kind, outside::cgroup::setting::tests::table};

#[test]
fn what_is_written() {
    table(
        settings_v2,
        &[
            ("{}", ""),
            (r#"{"memory":{"limit":0,"swap":0,"reservation":0,"disableOOMKiller":false,"kernel":5}}"#, ""),
            (r#"{"cpu":{"shares":0,"quota":0,"period":0,"realtimeRuntime":0,"realtimePeriod":0}}"#, ""),
            (r#"{"memory":{"limit":30,"swap":50,"reservation":20}}"#, "memory.swap.max=20 memory.max=30 memory.low=20"),
            (r#"{"memory":{"limit":30,"swap":30}}"#, "memory.swap.max=0 (absent) memory.max=30"),
            (r#"{"memory":{"limit":30,"swap":-1}}"#, "memory.swap.max=max (absent) memory.max=30"),
            (r#"{"memory":{"limit":-1}}"#, "memory.swap.max=max (absent) memory.max=max (absent)"),
            (
                r#"{"memory":{"limit":-1,"swap":50,"reservation":-1}}"#,
                "memory.swap.max=50 memory.max=max (absent) memory.low=max",
            ),
            (r#"{"memory":{"limit":30}}"#, "memory.max=30"),
            (r#"{"memory":{"swap":-1}}"#, "memory.swap.max=max (absent)"),
            (
                r#"{"cpu":{"shares":1024,"period":50000,"quota":40000,"burst":9,"idle":0,"cpus":"0","mems":"0"}}"#,
                "cpu.idle=0 cpu.weight=100 cpu.max.burst=9 (later) cpu.max=40000 50000 cpuset.cpus=0 cpuset.mems=0",
            ),
            (r#"{"cpu":{"shares":1024,"idle":1,"quota":-1}}"#, "cpu.idle=1 cpu.max=max 100000"),
            (r#"{"cpu":{"shares":1024},"unified":{"cpu.idle":"1","cpu.weight":"8"}}"#, "cpu.idle=1 (lines)"),
            (
                r#"{"cpu":{"idle":1},"unified":{"cpu.idle":"0","cpu.weight":"8"}}"#,
                "cpu.idle=1 cpu.idle=0 (lines) cpu.weight=8 (lines)",
            ),
            (r#"{"cpu":{"period":50000}}"#, "cpu.max=max 50000"),
            (r#"{"cpu":{"quota":5000}}"#, "cpu.max=5000 100000"),
            (r#"{"cpu":{"quota":-1}}"#, "cpu.max=max 100000"),
            (r#"{"pids":{"limit":0}}"#, "pids.max=1"),
            (
                r#"{"blockIO":{"weight":750,"weightDevice":[{"major":8,"minor":0,"weight":1000}],
                    "throttleReadBpsDevice":[{"major":8,"minor":1,"rate":5}],
                    "throttleWriteBpsDevice":[{"major":8,"minor":1,"rate":6}],
                    "throttleReadIOPSDevice":[{"major":8,"minor":1,"rate":7}],
                    "throttleWriteIOPSDevice":[{"major":8,"minor":1,"rate":8}]}}"#,
                "io.bfq.weight=750 (else io.weight=7475) io.bfq.weight=8:0 1000 (else io.weight=8:0 10000) \
                 io.max=8:1 rbps=5 io.max=8:1 wbps=6 io.max=8:1 riops=7 io.max=8:1 wiops=8",
            ),
            (
                r#"{"hugepageLimits":[{"pageSize":"1GB","limit":9}]}"#,
                "hugetlb.1GB.max=9 hugetlb.1GB.rsvd.max=9 (absent)",
            ),
            (
                r#"{"rdma":{"mlx4_0":{"hcaHandles":2,"hcaObjects":2000}}}"#,
                "rdma.max=mlx4_0 hca_handle=2 hca_object=2000",
            ),
            (
                r#"{"unified":{"pids.max":"9","io.max":"8:0 rbps=1\n8:1 rbps=2","cgroup.max.depth":"2"},"pids":{"limit":5}}"#,
                "pids.max=5 cgroup.max.depth=2 (lines) io.max=8:0 rbps=1\n8:1 rbps=2 (lines) pids.max=9 (lines)",
            ),
        ],
    );
}

#[test]
fn what_is_refused() {
    for (json, expected) in [
        (r#"{"memory":{"swap":30}}"#, "linux.resources.memory.swap: unable to set swap limit without memory limit"),
        (
            r#"{"memory":{"limit":50,"swap":30}}"#,
            "linux.resources.memory.swap: memory+swap limit should be >= memory limit",
        ),
        (r#"{"memory":{"swappiness":60}}"#, "linux.resources.memory.swappiness: cgroup v2 has no such limit"),
        (r#"{"memory":{"disableOOMKiller":true}}"#, "linux.resources.memory.disableOOMKiller: cgroup v2 has no"),
        (r#"{"cpu":{"realtimeRuntime":1}}"#, "linux.resources.cpu.realtimeRuntime: cgroup v2 has no"),
        (r#"{"cpu":{"realtimePeriod":1}}"#, "linux.resources.cpu.realtimePeriod: cgroup v2 has no"),
        (r#"{"blockIO":{"leafWeight":10}}"#, "linux.resources.blockIO.leafWeight: cgroup v2 has no"),
        (
            r#"{"blockIO":{"weightDevice":[{"major":8,"minor":0,"leafWeight":10}]}}"#,
            "linux.resources.blockIO.weightDevice[0].leafWeight: cgroup v2 has no",
        ),
        (r#"{"network":{"classID":1}}"#, "linux.resources.network.classID: cgroup v2 has no"),
        (r#"{"network":{"priorities":[{"name":"a","priority":1}]}}"#, "linux.resources.network.priorities: cgroup v2"),
        (r#"{"rdma":{"a b=c":{"hcaHandles":1}}}"#, r#"linux.resources.rdma["a b=c"]: "#),
        (r#"{"rdma":{"a":{}}}"#, r#"linux.resources.rdma["a"]: has neither"#),
        (
            r#"{"unified":{"../../x.max":"1"}}"#,
            r#"linux.resources.unified["../../x.max"]: unified resource "../../x.max" must be a"#,
        ),
        (
            r#"{"unified":{"memory":"1"}}"#,
            r#"linux.resources.unified["memory"]: unified resource "memory" must be in the form"#,
        ),
        (r#"{"unified":{"..":"1"}}"#, r#"linux.resources.unified[".."]: unified resource ".." must be in the form"#),
        (r#"{"unified":{"cgroup.procs":"1"}}"#, r#"linux.resources.unified["cgroup.procs"]: is not a resource"#),
        (r#"{"unified":{"cgroup.kill":"1"}}"#, r#"linux.resources.unified["cgroup.kill"]: is not a resource"#),
        (r#"{"hugepageLimits":[{"pageSize":"MB","limit":9}]}"#, "linux.resources.hugepageLimits[0].pageSize: "),
    ] {
        let error = crate::spec::parse(json.as_bytes()).and_then(|it| settings_v2(&it)).unwrap_err();
        assert!(error.to_string().starts_with(expected), "{error}");
        assert_eq!(error.kind(), Kind::Invalid);
    }
}

#[test]
fn shares_become_weights_as_in_todays_runc() {
    for (shares, weight) in
        [(1, 1), (2, 1), (3, 2), (100, 17), (512, 59), (1024, 100), (3333, 256), (262_144, 10_000), (u64::MAX, 10_000)]
    {
        assert_eq!(weight_of_shares(shares), weight, "{shares}");
    }
}
