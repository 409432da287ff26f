//! Of the bundle.

use std::fs;

use integration::case::Case;
use integration::not_on;
use serde_json::json;

use super::refused;

#[test]
fn a_bundle_without_configuration() {
    let case = Case::new();
    let out = case.call(&["create", "--bundle", case.bundle().to_str().unwrap(), &case.id]);
    out.refused(&["config.json"]);
    case.nothing_left();
}

#[test]
fn a_bundle_that_is_not_there() {
    let case = Case::new();
    case.call(&["create", "--bundle", "/no/such/bundle", &case.id]).refused(&["/no/such/bundle"]);
    case.nothing_left();
}

#[test]
fn a_broken_configuration() {
    let case = Case::new();
    for (text, word) in [
        ("", "config.json"),
        ("{", "config.json"),
        ("\u{0}", "config.json"),
        ("[]", ""),
        ("{\"ociVersion\": 1}", "ociVersion"),
        ("{\"ociVersion\": \"1.0.2\", \"process\": {\"args\": \"not a list\"}}", "process.args"),
    ] {
        fs::write(case.bundle().join("config.json"), text).unwrap();
        case.call(&["create", "--bundle", case.bundle().to_str().unwrap(), &case.id]).refused(&[word]);
        case.nothing_left();
    }
}

#[test]
fn a_field_of_the_wrong_type_is_named() {
    let case = Case::new();
    not_on!(case, "crun", "leaves its state directory after some refusals");
    refused(|c| c.spec["process"]["cwd"] = json!(7), &["config.json", "process.cwd"]);
    refused(|c| c.spec["linux"]["namespaces"][0]["type"] = json!(7), &["config.json", "linux.namespaces"]);
    refused(|c| c.spec["process"]["rlimits"][0]["soft"] = json!("many"), &["config.json", "process.rlimits"]);
}

#[test]
fn a_root_file_system_that_is_not_there() {
    refused(|c| c.spec["root"]["path"] = json!("nowhere"), &["nowhere"]);
    refused(|c| c.spec["root"]["path"] = json!("config.json"), &["config.json"]);
}

#[test]
fn a_configuration_without_root() {
    refused(
        |c| {
            c.spec.as_object_mut().unwrap().remove("root");
        },
        &["root"],
    );
}

#[test]
fn a_configuration_without_arguments() {
    refused(|c| c.spec["process"]["args"] = json!([]), &["args"]);
}

#[test]
fn a_working_directory_that_is_not_absolute() {
    let case = Case::new();
    not_on!(case, "crun", "takes a relative one");
    refused(|c| c.spec["process"]["cwd"] = json!("tmp"), &["cwd"]);
    refused(|c| c.spec["process"]["cwd"] = json!(""), &["cwd"]);
}

#[test]
fn a_specification_version_that_is_not_ours() {
    let case = Case::new();
    not_on!(case, "runc", "accepts any version");
    not_on!(case, "crun", "accepts any version");
    refused(|c| c.spec["ociVersion"] = json!("2.0.0"), &["ociVersion", "2.0.0"]);
    refused(|c| c.spec["ociVersion"] = json!("one"), &["ociVersion", "one"]);
}

#[test]
fn a_namespace_of_an_unknown_type() {
    refused(|c| c.spec["linux"]["namespaces"][0]["type"] = json!("nonsense"), &["nonsense"]);
}

#[test]
fn a_namespace_that_is_there_twice() {
    let case = Case::new();
    not_on!(case, "crun", "takes the same namespace twice");
    refused(
        |c| c.spec["linux"]["namespaces"].as_array_mut().unwrap().push(json!({ "type": "pid" })),
        &["linux.namespaces"],
    );
}

#[test]
fn a_namespace_path_that_is_no_namespace() {
    refused(
        |c| {
            c.namespace("network", Some("/no/such/ns"));
        },
        &["/no/such/ns"],
    );
    refused(
        |c| {
            c.namespace("network", Some("/etc/passwd"));
        },
        &["/etc/passwd"],
    );
    // A namespace, but of another type.
    refused(
        |c| {
            c.namespace("network", Some("/proc/self/ns/uts"));
        },
        &["/proc/self/ns/uts"],
    );
}

#[test]
fn a_namespace_path_that_is_a_pipe_is_not_waited_for() {
    for kind in ["network", "ipc"] {
        let mut case = Case::new();
        not_on!(case, "runc", "waits for a writer");
        not_on!(case, "crun", "waits for a writer");
        let pipe = case.dir.join("pipe");
        nix::unistd::mkfifo(&pipe, nix::sys::stat::Mode::S_IRWXU).unwrap();
        case.namespace(kind, Some(pipe.to_str().unwrap()));
        case.create().refused(&["pipe"]);
        case.nothing_left();
    }
}

#[test]
fn a_hostname_without_a_namespace_for_it() {
    refused(
        |c| {
            c.without_namespace("uts");
        },
        &["hostname"],
    );
}

#[test]
fn mappings_without_a_user_namespace() {
    let case = Case::new();
    not_on!(case, "runc version 1.1", "ignores mappings without a user namespace");
    not_on!(case, "crun", "ignores mappings without a user namespace");
    refused(
        |c| c.spec["linux"]["uidMappings"] = json!([{ "containerID": 0, "hostID": 100_000, "size": 10 }]),
        &["uidMappings"],
    );
}

#[test]
fn a_user_namespace_without_mappings() {
    let case = Case::new();
    not_on!(case, "crun", "makes mappings up");
    refused(
        |c| {
            c.namespace("user", None);
        },
        &["Mappings"],
    );
}

#[test]
fn an_unknown_rlimit() {
    refused(
        |c| c.spec["process"]["rlimits"] = json!([{ "type": "RLIMIT_NONSENSE", "soft": 1, "hard": 1 }]),
        &["RLIMIT_NONSENSE"],
    );
}

#[test]
fn an_rlimit_whose_soft_value_is_above_its_hard_value() {
    refused(
        |c| c.spec["process"]["rlimits"] = json!([{ "type": "RLIMIT_NOFILE", "soft": 20, "hard": 10 }]),
        &["process.rlimits[0]"],
    );
}

#[test]
fn an_rlimit_that_is_there_twice() {
    let case = Case::new();
    not_on!(case, "runc version 1.1", "takes the last of two");
    not_on!(case, "crun", "takes the last of two");
    let one = json!({ "type": "RLIMIT_NOFILE", "soft": 20, "hard": 20 });
    refused(|c| c.spec["process"]["rlimits"] = json!([one, one]), &["RLIMIT_NOFILE"]);
}

#[test]
fn a_file_system_of_an_unknown_type() {
    refused(
        |c| {
            c.mount("/mnt/x", "nonsensefs", "none", &[]);
        },
        &["nonsensefs", "/mnt/x"],
    );
}

#[test]
fn a_bind_mount_of_what_is_not_there() {
    refused(
        |c| {
            c.mount("/mnt/x", "bind", "/no/such/source", &["bind"]);
        },
        &["/no/such/source", "/mnt/x"],
    );
}

#[test]
fn a_mount_option_that_the_file_system_does_not_know() {
    refused(
        |c| {
            c.mount("/mnt/x", "tmpfs", "tmpfs", &["nonsense=1"]);
        },
        &["nonsense", "/mnt/x"],
    );
}

#[test]
fn a_system_setting_that_is_not_the_containers() {
    refused(|c| c.spec["linux"]["sysctl"] = json!({ "kernel.panic": "1" }), &["kernel.panic"]);
    refused(|c| c.spec["linux"]["sysctl"] = json!({ "vm.swappiness": "1" }), &["vm.swappiness"]);
    // It begins as one of the container's own, and ends at the host's.
    refused(|c| c.spec["linux"]["sysctl"] = json!({ "net/../kernel/panic_on_oops": "0" }), &["panic_on_oops"]);
    refused(
        |c| {
            c.without_namespace("network");
            c.spec["linux"]["sysctl"] = json!({ "net.ipv4.ip_forward": "1" });
        },
        &["net.ipv4.ip_forward"],
    );
    refused(
        |c| {
            c.without_namespace("ipc");
            c.spec["linux"]["sysctl"] = json!({ "kernel.shmmax": "1" });
        },
        &["kernel.shmmax"],
    );
}

#[test]
fn a_system_setting_that_leaves_its_tree() {
    let path = "net/../../kernel/panic";
    refused(|c| c.spec["linux"]["sysctl"] = json!({ path: "1" }), &[path]);
}

#[test]
fn a_device_of_an_unknown_type() {
    let case = Case::new();
    not_on!(case, "crun", "makes a character device of it");
    refused(
        |c| c.spec["linux"]["devices"] = json!([{ "path": "/dev/x", "type": "z", "major": 1, "minor": 3 }]),
        &["linux.devices[0].type", "z"],
    );
}

#[test]
fn a_seccomp_action_or_operator_that_is_unknown() {
    refused(|c| c.spec["linux"]["seccomp"] = json!({ "defaultAction": "SCMP_ACT_NONSENSE" }), &["SCMP_ACT_NONSENSE"]);
    refused(
        |c| {
            c.spec["linux"]["seccomp"] = json!({
                "defaultAction": "SCMP_ACT_ALLOW",
                "architectures": ["SCMP_ARCH_X86_64"],
                "syscalls": [{ "names": ["mkdir"], "action": "SCMP_ACT_ERRNO",
                    "args": [{ "index": 0, "value": 1, "op": "SCMP_CMP_NONSENSE" }] }],
            });
        },
        &["SCMP_CMP_NONSENSE"],
    );
    refused(
        |c| {
            c.spec["linux"]["seccomp"] =
                json!({ "defaultAction": "SCMP_ACT_ALLOW", "architectures": ["SCMP_ARCH_NONSENSE"] });
        },
        &["SCMP_ARCH_NONSENSE"],
    );
}

#[test]
fn a_cgroup_that_leaves_the_hierarchy() {
    let mut case = Case::new();
    not_on!(case, "crun", "makes directories outside the hierarchy");
    // Whether it is refused or kept inside, nothing outside may be made.
    let path = format!("/../../../../../../tmp/{}/out", case.id);
    case.spec["linux"]["cgroupsPath"] = json!(path);
    case.args(&["/probe", "say", "hello"]);
    let _ = case.run();
    assert!(!case.dir.join("out").exists());
    // Those that keep it inside make it under /tmp of the hierarchy, and leave that parent.
    for hierarchy in fs::read_dir("/sys/fs/cgroup").unwrap().flatten() {
        let _ = fs::remove_dir(hierarchy.path().join("tmp").join(&case.id));
        let _ = fs::remove_dir(hierarchy.path().join("tmp"));
    }
    let _ = fs::remove_dir(std::path::Path::new("/sys/fs/cgroup/tmp").join(&case.id));
    let _ = fs::remove_dir("/sys/fs/cgroup/tmp");
}

#[test]
fn memory_that_is_too_little_to_start_leaves_nothing() {
    let mut case = Case::new();
    if !integration::cgroups::has("memory") {
        integration::skip!("the memory controller is not available in this cgroup hierarchy");
    }
    case.spec["linux"]["resources"]["memory"] = json!({ "limit": 4096 });
    let out = case.create();
    if out.code == 0 {
        // Our init is small: it may fit. The process itself cannot.
        let _ = case.start();
        case.wait();
        case.call(&["delete", "--force", &case.id]).ok();
    }
    case.nothing_left();
}

#[test]
fn a_limit_that_the_kernel_refuses() {
    let mut case = Case::new();
    if !integration::cgroups::has("cpuset") {
        integration::skip!("the cpuset controller is not available in this cgroup hierarchy");
    }
    case.spec["linux"]["resources"]["cpu"] = json!({ "cpus": "4095" });
    case.create().refused(&["cpuset.cpus", "4095"]);
    case.nothing_left();
}

#[test]
fn an_id_that_means_no_change_to_the_kernel() {
    let case = Case::new();
    not_on!(case, "runc", "takes it");
    not_on!(case, "crun", "takes it");
    refused(|c| c.spec["process"]["user"]["uid"] = json!(u32::MAX), &["uid", "4294967295"]);
    refused(|c| c.spec["process"]["user"]["gid"] = json!(u32::MAX), &["gid", "4294967295"]);
}

#[test]
fn a_name_of_the_host_that_programs_would_read_otherwise() {
    for name in ["a\0b", &"x".repeat(65)] {
        let mut case = Case::new();
        not_on!(case, "runc", "takes what the kernel takes");
        not_on!(case, "crun", "takes what the kernel takes");
        case.spec["hostname"] = json!(name);
        case.create().refused(&["hostname", "64 bytes"]);
        case.nothing_left();
    }
}

#[test]
fn names_of_any_length_make_one_line_that_has_the_cause() {
    let long = "x".repeat(3 << 20);
    let mut case = Case::new();
    not_on!(case, "runc", "repeats them");
    not_on!(case, "crun", "repeats them");
    type Change<'a> = &'a dyn Fn(&mut serde_json::Value);
    let changes: [(Change<'_>, &str); 5] = [
        (&|spec| spec["hostname"] = json!(long), "longer than 64 bytes"),
        (&|spec| spec["process"]["cwd"] = json!(format!("/{long}")), "file name too long"),
        (&|spec| spec["process"]["args"] = json!([long]), "executable file not found"),
        (&|spec| spec["linux"]["namespaces"] = json!([{ "type": long }]), "unknown variant"),
        (&|spec| spec["hooks"] = json!({ "prestart": [{ "path": format!("/{long}") }] }), "file name too long"),
    ];
    let plain = case.spec.clone();
    for (change, cause) in changes {
        case.spec = plain.clone();
        change(&mut case.spec);
        let out = case.create();
        assert!(out.stderr.len() <= 9 << 10, "{} bytes", out.stderr.len());
        out.refused(&[cause]);
        case.nothing_left();
    }
}

#[test]
fn many_things_take_no_more_than_their_number() {
    // Each is looked at once, and not once for each of the others: that would not come to its end here.
    let mut case = Case::new();
    not_on!(case, "runc", "compares each with all others");
    not_on!(case, "crun", "compares each with all others");
    let paths: Vec<_> = (0..50_000).map(|n| format!("/proc/sys/net/none{n}")).collect();
    case.spec["linux"]["maskedPaths"] = json!(paths);
    let names: Vec<_> = (0..50_000).map(|n| format!("CAP_NONE{n}")).collect();
    case.spec["process"]["capabilities"]["bounding"] = json!(names);
    case.args(&["/probe", "exit", "0"]);
    let out = case.run().ok();
    assert!(out.peer || out.stderr.lines().count() == 1, "one warning: {} bytes", out.stderr.len());
    case.nothing_left();
}
