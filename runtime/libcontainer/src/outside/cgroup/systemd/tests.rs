//! What systemd is told, without a systemd.

use super::*;
use crate::spec::DeviceRule;

fn devices(json: &str, mode: Mode) -> String {
    let rules: Vec<DeviceRule> = crate::spec::parse(json.as_bytes()).unwrap();
    let text = |value: &Value| match value {
        Value::Str(text) => text.clone(),
        other => panic!("{other:?}"),
    };
    let mut all = String::new();
    for (name, value) in device_properties(&Rules::of(&rules).unwrap(), mode) {
        all = match value {
            Value::Array(_, pairs) => pairs.iter().fold(all, |all, pair| match pair {
                Value::Struct(pair) => format!("{all} {}={}", text(&pair[0]), text(&pair[1])),
                other => panic!("{other:?}"),
            }),
            policy => format!("{name}={}", text(&policy)),
        };
    }
    all
}

#[test]
fn device_rules_are_a_list_where_systemd_knows_one() {
    const DEFAULTS: &str = " block-*=m char-*=m /dev/char/1:3=rwm /dev/char/1:5=rwm /dev/char/1:7=rwm /dev/char/1:8=rwm \
                            /dev/char/1:9=rwm /dev/char/5:0=rwm /dev/char/5:2=rwm char-136=rwm";
    assert_eq!(devices("[]", Mode::V2), format!("DevicePolicy=strict{DEFAULTS}"));
    let own = devices(
        r#"[{"allow":false,"access":"rwm"},{"allow":true,"type":"b","major":8,"minor":0,"access":"r"}]"#,
        Mode::V2,
    );
    assert!(own.contains(" /dev/block/8:0=r"), "{own}");
    assert_eq!(devices(r#"[{"allow":true,"access":"rwm"}]"#, Mode::V1), "DevicePolicy=auto");
    // All but one, and a minor number of any driver, are beyond it.
    for json in [
        r#"[{"allow":true,"access":"rwm"},{"allow":false,"type":"b","major":8,"minor":0,"access":"r"}]"#,
        r#"[{"allow":true,"type":"c","minor":5,"access":"r"}]"#,
    ] {
        assert_eq!(devices(json, Mode::V2), "DevicePolicy=auto", "{json}");
        assert_eq!(devices(json, Mode::V1), "DevicePolicy=strict", "{json}");
    }
}

#[test]
fn versions_are_numbers() {
    for (text, number) in [("252.39-1~deb12u2", 252), ("v245.4-1.fc32", 245), ("\"241-1\"", 241), ("NaN", 0), ("", 0)] {
        assert_eq!(version_number(text), number);
    }
}

#[test]
fn places_are_the_slices_and_the_scope_below_the_manager() {
    let system = Manager { user: false, root: PathBuf::new() };
    let (unit, path) = system.place("a-b.slice:docker:1", "web").unwrap();
    assert_eq!((&*unit.name, &*unit.slice, unit.user), ("docker-1.scope", "a-b.slice", false));
    assert_eq!(path, Path::new("a.slice/a-b.slice/docker-1.scope"));
    let root = PathBuf::from("user.slice/user-5.slice/user@5.service");
    let user = Manager { user: true, root };
    let (unit, path) = user.place("", "web").unwrap();
    assert_eq!((&*unit.slice, unit.user), ("user.slice", true));
    assert_eq!(path, Path::new("user.slice/user-5.slice/user@5.service/user.slice/tare-web.scope"));
}
