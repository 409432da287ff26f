//! Limits and controllers, written and read back.

use super::*;

#[test]
fn v2_hands_controllers_down_and_names_the_missing_one() {
    if !in_pure_v2(v2_hands_controllers_down_and_names_the_missing_one) {
        return;
    }
    let scene = Scene::new("controllers");
    let root = fs::read_to_string("/sys/fs/cgroup/cgroup.controllers").unwrap();
    let have = |name| root.split_whitespace().any(|it| it == name);
    let cgroup = scene.make(&Resources::default()).unwrap();
    assert_eq!(scene.value("", "cgroup.controllers"), root.trim());
    if have("hugetlb") {
        let limit = HugepageLimit { page_size: "2MB".into(), limit: 4 << 20 };
        cgroup.set(&Resources { hugepage_limits: vec![limit], ..Resources::default() }).unwrap();
        assert_eq!(scene.value("", "hugetlb.2MB.max"), "4194304");
        assert_eq!(scene.value("", "hugetlb.2MB.rsvd.max"), "4194304");
    } else {
        skip("no hugetlb controller in v2");
    }
    let unified = |file: &str, value: &str| Resources {
        unified: [(file.to_owned(), value.to_owned())].into(),
        ..Resources::default()
    };
    cgroup.set(&unified("cgroup.max.depth", "3")).unwrap();
    assert_eq!(scene.value("", "cgroup.max.depth"), "3");
    let text = cgroup.set(&unified("cgroup.max.depth", "many")).unwrap_err().to_string();
    assert_eq!(
        text,
        "linux.resources.unified[\"cgroup.max.depth\"]: write cgroup.max.depth \"many\": invalid argument"
    );
    cgroup.undo().unwrap();

    let limits = Resources { memory: Memory { limit: Some(1 << 26), ..Memory::default() }, ..Resources::default() };
    if have("memory") {
        let cgroup = scene.make(&limits).unwrap();
        assert_eq!(scene.value("", "memory.max"), (1 << 26).to_string());
        cgroup.undo().unwrap();
    } else {
        let text = scene.make(&limits).unwrap_err().to_string();
        assert!(text.starts_with("linux.resources.memory.limit: the memory controller is not available"), "{text}");
        let text = scene.make(&unified("memory.max", "1")).unwrap_err().to_string();
        assert!(text.contains("can't be set: controller \"memory\" not available"), "{text}");
    }
    scene.assert_nothing_left();
}

#[test]
fn v2_sets_and_changes_limits() {
    if !in_pure_v2(v2_sets_and_changes_limits) {
        return;
    }
    let root = fs::read_to_string("/sys/fs/cgroup/cgroup.controllers").unwrap();
    for controller in ["memory", "cpu", "cpuset", "pids"] {
        if !root.split_whitespace().any(|it| it == controller) {
            return skip(&format!("no {controller} controller in v2"));
        }
    }
    let mut scene = Scene::new("limits");
    let resources = |json: &str| crate::spec::parse::<Resources>(json.as_bytes()).unwrap();
    let cgroup = scene
        .make(&resources(
            r#"{"memory":{"limit":33554432,"swap":50331648,"reservation":25165824},"pids":{"limit":0},
                "cpu":{"shares":1024,"quota":500000,"period":1000000,"burst":100000,"cpus":"0","mems":"0"},
                "unified":{"memory.high":"31457280"}}"#,
        ))
        .unwrap();
    for (file, value) in [
        ("memory.max", "33554432"),
        ("memory.low", "25165824"),
        ("memory.high", "31457280"),
        ("pids.max", "1"),
        ("cpu.weight", "100"),
        ("cpu.max", "500000 1000000"),
        ("cpu.max.burst", "100000"),
        ("cpuset.cpus", "0"),
        ("cpuset.mems", "0"),
    ] {
        assert_eq!(scene.value("", file), value, "{file}");
    }
    if scene.dir("").join("memory.swap.max").exists() {
        assert_eq!(scene.value("", "memory.swap.max"), "16777216");
    }
    cgroup
        .set(&resources(r#"{"memory":{"limit":-1},"pids":{"limit":-1},"cpu":{"quota":-1,"burst":0,"idle":1}}"#))
        .unwrap();
    for (file, value) in [("memory.max", "max"), ("pids.max", "max"), ("cpu.max", "max 100000"), ("cpu.idle", "1")] {
        assert_eq!(scene.value("", file), value, "{file}");
    }
    scene.run(&cgroup, "exec sleep 100");
    until(|| scene.value("", "memory.current") != "0");
    let text = cgroup.set(&resources(r#"{"memory":{"limit":1024,"checkBeforeUpdate":true}}"#)).unwrap_err().to_string();
    assert!(text.starts_with("rejecting memory limit 1024 <= usage "), "{text}");
    cgroup.kill_all().unwrap();
    cgroup.undo().unwrap();
    scene.assert_nothing_left();
}

#[test]
fn v1_sets_and_changes_limits() {
    if !on_v1() {
        return;
    }
    let mut scene = Scene::new("limits");
    let mib = |it: i64| Some(it << 20);
    let limits =
        |limit, swap| Resources { memory: Memory { limit, swap, ..Memory::default() }, ..Resources::default() };
    let mut resources = limits(mib(30), mib(50));
    resources.pids = Some(Pids { limit: Some(0) });
    resources.cpu =
        Cpu { shares: Some(100), quota: Some(50_000), period: Some(1_000_000), cpus: "0".into(), ..Cpu::default() };
    let cgroup = scene.make(&resources).unwrap();
    assert_eq!(scene.value("pids", "pids.max"), "1");
    assert_eq!(scene.value("cpu", "cpu.shares"), "100");
    assert_eq!(scene.value("cpu", "cpu.cfs_quota_us"), "50000");
    assert_eq!(scene.value("cpu", "cpu.cfs_period_us"), "1000000");
    assert_eq!(scene.value("cpuset", "cpuset.cpus"), "0");
    assert_eq!(
        scene.value("cpuset", "cpuset.mems"),
        fs::read_to_string("/sys/fs/cgroup/cpuset/cpuset.mems").unwrap().trim()
    );
    let memory = |scene: &Scene| {
        ["memory.limit_in_bytes", "memory.memsw.limit_in_bytes"]
            .map(|file| scene.value("memory", file).parse::<i64>().unwrap())
    };
    assert_eq!(memory(&scene), [30 << 20, 50 << 20]);
    for (limit, swap) in [(60, 80), (20, 40), (100, 100)] {
        cgroup.set(&limits(mib(limit), mib(swap))).unwrap();
        assert_eq!(memory(&scene), [limit << 20, swap << 20]);
    }
    cgroup.set(&limits(Some(-1), None)).unwrap();
    assert!(memory(&scene).iter().all(|it| *it > 1 << 60));

    cgroup.set(&Resources { pids: Some(Pids { limit: Some(-1) }), ..Resources::default() }).unwrap();
    assert_eq!(scene.value("pids", "pids.max"), "max");
    let joined = format!("test $(grep -c leaf /proc/self/cgroup) = {}", scene.placement.hierarchies.len());
    assert_eq!(scene.status(&cgroup, &joined), Some(0));
    cgroup.remove().unwrap();
}

#[test]
fn v1_without_limits_gives_each_new_level_the_parents_cpuset() {
    if !on_v1() {
        return;
    }
    let mut scene = Scene::new("cpuset");
    let cgroup = scene.make(&Resources::default()).unwrap();
    for file in ["cpuset.cpus", "cpuset.mems"] {
        let root = fs::read_to_string(format!("/sys/fs/cgroup/cpuset/{file}")).unwrap();
        assert_eq!(scene.value("cpuset", file), root.trim());
    }
    assert_eq!(scene.status(&cgroup, "exit 3"), Some(3));
    cgroup.undo().unwrap();
    scene.assert_nothing_left();
}

#[test]
fn v1_failures_leave_nothing_behind() {
    if !on_v1() {
        return;
    }
    let mut scene = Scene::new("failure");
    scene.placement.hierarchies.retain(|it| !it.has("hugetlb"));
    for (resources, expected) in [
        (
            Resources {
                hugepage_limits: vec![HugepageLimit { page_size: "2MB".into(), limit: 1 }],
                ..Resources::default()
            },
            "linux.resources.hugepageLimits[0]: the hugetlb controller is not available",
        ),
        (
            Resources { cpu: Cpu { period: Some(1), ..Cpu::default() }, ..Resources::default() },
            "linux.resources.cpu.period: write cpu.cfs_period_us \"1\": invalid argument",
        ),
        (
            Resources { cpu: Cpu { cpus: "4000".into(), ..Cpu::default() }, ..Resources::default() },
            "linux.resources.cpu.cpus: write cpuset.cpus \"4000\": ",
        ),
    ] {
        let text = scene.make(&resources).unwrap_err().to_string();
        assert!(text.starts_with(expected), "{text}");
        scene.assert_nothing_left();
    }
}
