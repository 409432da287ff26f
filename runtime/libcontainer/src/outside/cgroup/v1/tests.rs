use super::*;
use crate::{error::Kind, outside::cgroup::setting::tests::table};

#[test]
fn what_is_written() {
    table(
        settings_v1,
        &[
            ("{}", ""),
            (r#"{"memory":{"limit":0,"swap":0,"reservation":0,"useHierarchy":true,"disableOOMKiller":false}}"#, ""),
            (
                r#"{"memory":{"limit":30,"swap":50,"reservation":20,"swappiness":0,"disableOOMKiller":true}}"#,
                "memory.limit_in_bytes=30 (later) memory.memsw.limit_in_bytes=50 memory.soft_limit_in_bytes=20 \
                 memory.oom_control=1 memory.swappiness=0",
            ),
            (r#"{"memory":{"swap":50}}"#, "memory.memsw.limit_in_bytes=50"),
            (r#"{"memory":{"limit":-1}}"#, "memory.limit_in_bytes=-1 (later) memory.memsw.limit_in_bytes=-1 (absent)"),
            (r#"{"memory":{"limit":30,"swap":-1}}"#, "memory.limit_in_bytes=30 (later) memory.memsw.limit_in_bytes=-1"),
            (
                r#"{"cpu":{"shares":2,"period":100,"quota":-5,"burst":0,"idle":0,"realtimePeriod":7,"realtimeRuntime":6,
                    "cpus":"0-1","mems":"0"}}"#,
                "cpuset.cpus=0-1 cpuset.mems=0 cpu.idle=0 cpu.shares=2 cpu.cfs_period_us=100 (later) cpu.cfs_burst_us=0 (later) \
                 cpu.cfs_quota_us=-1 cpu.rt_period_us=7 (later) cpu.rt_runtime_us=6",
            ),
            (r#"{"pids":{"limit":0}}"#, "pids.max=1"),
            (r#"{"pids":{"limit":-1}}"#, "pids.max=max (absent)"),
            (r#"{"pids":{"limit":7}}"#, "pids.max=7"),
            (
                r#"{"blockIO":{"weight":10,"leafWeight":20,"weightDevice":[{"major":8,"minor":0,"weight":30,"leafWeight":40}],
                    "throttleReadBpsDevice":[{"major":8,"minor":1,"rate":5}],
                    "throttleWriteBpsDevice":[{"major":8,"minor":1,"rate":6}],
                    "throttleReadIOPSDevice":[{"major":8,"minor":1,"rate":7}],
                    "throttleWriteIOPSDevice":[{"major":8,"minor":1,"rate":8}]}}"#,
                "blkio.weight=10 (else blkio.bfq.weight=10) blkio.leaf_weight=20 \
                 blkio.weight_device=8:0 30 (else blkio.bfq.weight_device=8:0 30) blkio.leaf_weight_device=8:0 40 \
                 blkio.throttle.read_bps_device=8:1 5 blkio.throttle.write_bps_device=8:1 6 \
                 blkio.throttle.read_iops_device=8:1 7 blkio.throttle.write_iops_device=8:1 8",
            ),
            (
                r#"{"hugepageLimits":[{"pageSize":"2MB","limit":9}]}"#,
                "hugetlb.2MB.limit_in_bytes=9 hugetlb.2MB.rsvd.limit_in_bytes=9 (absent)",
            ),
            (
                r#"{"network":{"classID":1048577,"priorities":[{"name":"eth0","priority":5}]},"rdma":{"mlx":{"hcaObjects":3}}}"#,
                "net_cls.classid=1048577 net_prio.ifpriomap=eth0 5 rdma.max=mlx hca_object=3",
            ),
        ],
    );
}

#[test]
fn what_is_refused() {
    for (json, expected) in [
        (r#"{"unified":{"memory.max":"1"}}"#, "linux.resources.unified: invalid configuration: cannot use unified"),
        (r#"{"memory":{"limit":-2}}"#, "linux.resources.memory.limit: -2 is neither"),
        (
            r#"{"memory":{"limit":50,"swap":30}}"#,
            "linux.resources.memory.swap: memory+swap limit should be >= memory limit",
        ),
        (r#"{"memory":{"swappiness":101}}"#, "linux.resources.memory.swappiness: 101 is outside 0 to 100"),
        (r#"{"cpu":{"shares":1}}"#, "linux.resources.cpu.shares: the minimum allowed cpu-shares is 2"),
        (r#"{"cpu":{"shares":262145}}"#, "linux.resources.cpu.shares: the maximum allowed cpu-shares is 262144"),
        (r#"{"blockIO":{"weight":9}}"#, "linux.resources.blockIO.weight: 9 is outside 10 to 1000"),
        (
            r#"{"blockIO":{"weightDevice":[{"major":8,"minor":0,"leafWeight":1001}]}}"#,
            "linux.resources.blockIO.weightDevice[0]: 1001 is outside",
        ),
        (
            r#"{"network":{"priorities":[{"name":"a 1\nb","priority":5}]}}"#,
            "linux.resources.network.priorities[0].name: ",
        ),
        (r#"{"hugepageLimits":[{"pageSize":"../2MB","limit":9}]}"#, "linux.resources.hugepageLimits[0].pageSize: "),
    ] {
        let error = crate::spec::parse(json.as_bytes()).and_then(|it| settings_v1(&it)).unwrap_err();
        assert!(error.to_string().starts_with(expected), "{error}");
        assert_eq!(error.kind(), Kind::Invalid);
    }
}
