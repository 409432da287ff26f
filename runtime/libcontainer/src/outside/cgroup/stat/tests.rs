use super::{parse::*, *};
use std::{fs, os::fd::AsFd};

/// A directory of ordinary files stands for a cgroup.
fn stats_of(files: &[(&str, &str)], stats: impl Fn(std::os::fd::BorrowedFd<'_>) -> Result<Stats>) -> serde_json::Value {
    let dir = tempfile::tempdir().unwrap();
    for (name, text) in files {
        fs::write(dir.path().join(name), text).unwrap();
    }
    let fd = super::super::file::open_dir(dir.path()).unwrap();
    serde_json::to_value(stats(fd.as_fd()).unwrap()).unwrap()
}

const EMPTY_SET: &str = r#"{"cpu_exclusive":0,"mem_hardwall":0,"mem_exclusive":0,"memory_migrate":0,"memory_spread_page":0,
    "memory_spread_slab":0,"memory_pressure":0,"sched_load_balance":0,"sched_relax_domain_level":0}"#;

fn json(text: &str) -> serde_json::Value {
    serde_json::from_str(&text.replace("EMPTY_SET", EMPTY_SET).replace("NONE", r#"{"limit":0,"failcnt":0}"#)).unwrap()
}

#[test]
fn v2_is_told_as_v1_was() {
    let files = [
        ("pids.current", "3\n"),
        ("pids.max", "max\n"),
        ("memory.stat", "anon 10\nfile 20\n"),
        ("memory.current", "100\n"),
        ("memory.max", "1000\n"),
        ("memory.peak", "150\n"),
        ("memory.swap.current", "7\n"),
        ("memory.swap.max", "500\n"),
        ("cpu.stat", "usage_usec 9\nuser_usec 5\nsystem_usec 4\nnr_periods 2\nnr_throttled 1\nthrottled_usec 3\n"),
        (
            "cpu.pressure",
            "some avg10=1.50 avg60=0.00 avg300=2.00 total=99\nfull avg10=0.00 avg60=0.00 avg300=0.00 total=0\n",
        ),
        ("io.stat", "8:0 rbytes=1 wbytes=2 rios=3 wios=4 dbytes=5 dios=6\n8:16 \n"),
    ];
    let expected = json(
        r#"{"cpu":{"usage":{"total":9000,"kernel":4000,"user":5000},
                "throttling":{"periods":2,"throttledPeriods":1,"throttledTime":3000},
                "psi":{"some":{"avg10":1.5,"avg60":0,"avg300":2,"total":99},"full":{"avg10":0,"avg60":0,"avg300":0,"total":0}}},
            "cpuset":EMPTY_SET,
            "memory":{"cache":20,"usage":{"limit":1000,"usage":100,"max":150,"failcnt":0},
                "swap":{"limit":1500,"usage":107,"failcnt":0},"kernel":NONE,"kernelTCP":NONE,"raw":{"anon":10,"file":20}},
            "pids":{"current":3},
            "blkio":{"ioServiceBytesRecursive":[{"major":8,"op":"Read","value":1},{"major":8,"op":"Write","value":2}],
                "ioServicedRecursive":[{"major":8,"op":"Read","value":3},{"major":8,"op":"Write","value":4}]},
            "hugetlb":{}}"#,
    );
    assert_eq!(stats_of(&files, v2::stats), expected);
}

#[test]
fn v2_without_controllers_still_counts_processes_and_time() {
    let files = [("cgroup.procs", "7\n8\n"), ("cpu.stat", "usage_usec 1\nuser_usec 1\nsystem_usec 0\n")];
    let expected = json(
        r#"{"cpu":{"usage":{"total":1000,"kernel":0,"user":1000},"throttling":{}},"cpuset":EMPTY_SET,
            "memory":{"usage":NONE,"swap":NONE,"kernel":NONE,"kernelTCP":NONE},"pids":{"current":2},
            "blkio":{},"hugetlb":{}}"#,
    );
    assert_eq!(stats_of(&files, v2::stats), expected);
}

#[test]
fn v1_files_are_read() {
    let files = [
        ("cpuset.cpus", "0-1,3\n"),
        ("cpuset.mems", "0\n"),
        ("cpuset.sched_load_balance", "1\n"),
        ("cpuset.sched_relax_domain_level", "-1\n"),
        ("memory.stat", "cache 20\nrss -5\n"),
        ("memory.usage_in_bytes", "100\n"),
        ("memory.max_usage_in_bytes", "150\n"),
        ("memory.failcnt", "2\n"),
        ("memory.limit_in_bytes", "9223372036854771712\n"),
        ("cpu.stat", "nr_periods 2\nnr_throttled 1\nthrottled_time 3\n"),
        ("cpuacct.usage", "77\n"),
        ("cpuacct.stat", "user 3\nsystem 1\n"),
        ("cpuacct.usage_percpu", "40 37 \n"),
        ("cpuacct.usage_all", "cpu user system\n0 30 10\n1 27 10\n"),
        ("pids.current", "3\n"),
        ("pids.max", "10\n"),
        ("blkio.bfq.io_serviced_recursive", "Total 0\n"),
        ("blkio.throttle.io_serviced_recursive", "8:0 Read 3\n8:0 Total 3\nTotal 3\n"),
        ("blkio.throttle.io_service_bytes_recursive", "8:0 Read 300\n8:0 Total 300\nTotal 300\n"),
    ];
    let expected = json(
        r#"{"cpu":{"usage":{"total":77,"percpu":[40,37],"percpu_kernel":[10,10],"percpu_user":[30,27],
                "kernel":10000000,"user":30000000},"throttling":{"periods":2,"throttledPeriods":1,"throttledTime":3}},
            "cpuset":{"cpus":[0,1,3],"cpu_exclusive":0,"mems":[0],"mem_hardwall":0,"mem_exclusive":0,"memory_migrate":0,
                "memory_spread_page":0,"memory_spread_slab":0,"memory_pressure":0,"sched_load_balance":1,
                "sched_relax_domain_level":-1},
            "memory":{"cache":20,"usage":{"limit":9223372036854771712,"usage":100,"max":150,"failcnt":2},
                "swap":NONE,"kernel":NONE,"kernelTCP":NONE,"raw":{"cache":20,"rss":0}},
            "pids":{"current":3,"limit":10},
            "blkio":{"ioServicedRecursive":[{"major":8,"op":"Read","value":3},{"major":8,"op":"Total","value":3}],
                "ioServiceBytesRecursive":[{"major":8,"op":"Read","value":300},{"major":8,"op":"Total","value":300}]},
            "hugetlb":{}}"#,
    );
    assert_eq!(stats_of(&files, |dir| v1::stats(|_| Some(dir))), expected);
}

#[test]
fn garbage_is_an_error_that_names_the_file() {
    for (name, text) in [("pids.current", "many\n"), ("cpu.stat", "usage_usec\n"), ("cpu.pressure", "some avg10\n")] {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join(name), text).unwrap();
        let fd = super::super::file::open_dir(dir.path()).unwrap();
        let error = v2::stats(fd.as_fd()).unwrap_err().to_string();
        assert!(error.starts_with(name), "{error}");
    }
    for text in ["1-", "x", "3-1", "70000", "1,-2"] {
        assert!(list("cpuset.cpus", text).is_err(), "{text}");
    }
    assert!(v1::block_io_entries("f", "8 Read 1\n").is_err());
    assert!(v2::block_io_line("8:0 rbytes=x", &mut BlockIo::default()).is_err());
    assert_eq!((page_size(2048), page_size(1 << 20), page_size(64)), ("2MB".into(), "1GB".into(), "64KB".into()));
}
