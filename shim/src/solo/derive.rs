//! The bundle that the runtime gets: the user's config.json with what the command line adds, and independent of where
//! it lies.

use std::path::{Component, Path, PathBuf};

use serde_json::{Map, Value};

use crate::error::{Context, Error, Result};

/// By which image tools carry an image's stop signal.
const STOP_SIGNAL_ANNOTATION: &str = "org.opencontainers.image.stopSignal";
/// By which imgtool says what a bundle is of.
const IMAGE_ANNOTATION: &str = "org.tare.image.ref";
const PORTS_ANNOTATION: &str = "org.tare.ports";
/// The signal that asks a container to end if nobody says otherwise.
const DEFAULT_STOP_SIGNAL: &str = "TERM";

/// A derived configuration and what it tells about the container.
#[derive(Debug)]
pub(crate) struct Derived {
    pub(crate) config: Value,
    /// The image, if the bundle names it.
    pub(crate) image: Option<String>,
    /// The published ports, if the bundle names them.
    pub(crate) ports: Option<String>,
    /// `process.args`.
    pub(crate) command: Vec<String>,
    pub(crate) stop_signal: String,
    /// Whether the kernel kills the container's processes together with its init.
    pub(crate) owns_pids: bool,
    /// Whether it neither writes to its root nor has hooks, so that others may run from the bundle beside it.
    pub(crate) shares_bundle: bool,
}

/// Derives from the text of `bundle`'s config.json. `bundle` must be absolute.
pub(crate) fn derive(text: &[u8], bundle: &Path, terminal: bool) -> Result<Derived> {
    let file = || format!("{}", bundle.join("config.json").display());
    let mut config: Value = serde_json::from_slice(text).context(file)?;
    let parsed = rewrite(&mut config, bundle, terminal).context(file)?;
    Ok(Derived { config, ..parsed })
}

fn rewrite(config: &mut Value, bundle: &Path, terminal: bool) -> Result<Derived> {
    let top = object(config, "the configuration")?;
    let hooks = top.get("hooks").and_then(Value::as_object);
    let hooked =
        hooks.is_some_and(|hooks| hooks.values().any(|list| list.as_array().is_some_and(|list| !list.is_empty())));
    let root = top.get_mut("root").ok_or_else(|| Error::invalid("root is missing"))?;
    let readonly = root.get("readonly").and_then(Value::as_bool) == Some(true);
    match object(root, "root")?.get_mut("path") {
        Some(Value::String(path)) => *path = absolute(bundle, path),
        _ => return Err(Error::invalid("root.path is missing or not a string")),
    }
    for mount in top.get_mut("mounts").and_then(Value::as_array_mut).into_iter().flatten() {
        rewrite_mount(object(mount, "an entry of mounts")?, bundle);
    }
    let process = top.get_mut("process").ok_or_else(|| Error::invalid("process is missing"))?;
    let process = object(process, "process")?;
    process.insert("terminal".to_owned(), Value::Bool(terminal));
    if terminal {
        name_terminal(process)?;
    }
    let arguments = process.get("args").and_then(Value::as_array).into_iter().flatten();
    let command: Vec<_> = arguments.filter_map(Value::as_str).map(str::to_owned).collect();
    if command.is_empty() {
        return Err(Error::invalid("process.args is empty: there is no command to run"));
    }
    let annotation = |key| {
        let value = top.get("annotations").and_then(|annotations| annotations.get(key)).and_then(Value::as_str);
        value.filter(|value| !value.is_empty()).map(str::to_owned)
    };
    let namespaces = top.get("linux").and_then(|linux| linux.get("namespaces")).and_then(Value::as_array);
    let owns_pids = namespaces.into_iter().flatten().any(|namespace| {
        let text = |key| namespace.get(key).and_then(Value::as_str).unwrap_or_default();
        text("type") == "pid" && text("path").is_empty()
    });
    Ok(Derived {
        config: Value::Null,
        image: annotation(IMAGE_ANNOTATION),
        ports: annotation(PORTS_ANNOTATION),
        command,
        stop_signal: annotation(STOP_SIGNAL_ANNOTATION).unwrap_or_else(|| DEFAULT_STOP_SIGNAL.to_owned()),
        owns_pids,
        shares_bundle: readonly && !hooked,
    })
}

/// As Docker has it: programs at a terminal want to know of which kind it is.
pub(super) fn name_terminal(process: &mut Map<String, Value>) -> Result<()> {
    let env = process.entry("env").or_insert_with(|| Value::Array(Vec::new()));
    let env = env.as_array_mut().ok_or_else(|| Error::invalid("process.env is not a list"))?;
    if !env.iter().any(|entry| entry.as_str().is_some_and(|entry| entry.starts_with("TERM="))) {
        env.push("TERM=xterm".into());
    }
    Ok(())
}

fn object<'a>(value: &'a mut Value, name: &str) -> Result<&'a mut Map<String, Value>> {
    value.as_object_mut().ok_or_else(|| Error::invalid(format!("{name} is not an object")))
}

/// Sources of bind mounts are relative to the bundle.
fn rewrite_mount(mount: &mut Map<String, Value>, bundle: &Path) {
    let options = mount.get("options").and_then(Value::as_array).into_iter().flatten();
    let bind = options.filter_map(Value::as_str).any(|option| matches!(option, "bind" | "rbind"));
    let bind = bind || mount.get("type").and_then(Value::as_str) == Some("bind");
    if let Some(Value::String(source)) = mount.get_mut("source").filter(|_| bind) {
        *source = absolute(bundle, source);
    }
}

/// `path` as seen from `bundle`. Only dots are resolved: links are the runtime's business.
fn absolute(bundle: &Path, path: &str) -> String {
    let mut whole = PathBuf::new();
    for component in bundle.join(path).components() {
        if component == Component::CurDir {
            continue;
        }
        whole.push(component);
    }
    whole.display().to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn derived(text: &str, terminal: bool) -> Result<Derived> {
        derive(text.as_bytes(), Path::new("/b/web"), terminal)
    }

    #[test]
    fn paths_become_absolute_and_the_rest_stays() {
        let text = r#"{"ociVersion":"1.2.0","root":{"path":"./rootfs","readonly":true},
            "process":{"args":["sh","-c","x"],"terminal":true,"cwd":"/"},
            "mounts":[{"destination":"/d","source":"data","options":["rbind"]},
                      {"destination":"/e","type":"bind","source":"/abs"},
                      {"destination":"/t","type":"tmpfs","source":"tmpfs"}],
            "annotations":{"org.opencontainers.image.stopSignal":"SIGQUIT","org.tare.image.ref":"web:1"},
            "linux":{"namespaces":[{"type":"pid"}],"future":{"field":1}}}"#;
        let derived = derived(text, false).unwrap();
        let config = &derived.config;
        assert_eq!(config["root"], serde_json::json!({"path": "/b/web/rootfs", "readonly": true}));
        assert_eq!(config["process"]["terminal"], false);
        assert_eq!(config["mounts"][0]["source"], "/b/web/data");
        assert_eq!(config["mounts"][1]["source"], "/abs");
        assert_eq!(config["mounts"][2]["source"], "tmpfs");
        assert_eq!(config["linux"]["future"]["field"], 1);
        assert_eq!((derived.stop_signal.as_str(), derived.owns_pids), ("SIGQUIT", true));
        assert_eq!(derived.command, ["sh", "-c", "x"]);
        assert_eq!((derived.image.as_deref(), derived.ports), (Some("web:1"), None));
    }

    #[test]
    fn defaults() {
        let text = r#"{"root":{"path":"/r"},"process":{"args":["x"]}}"#;
        let derived = derived(text, true).unwrap();
        assert_eq!(derived.config["root"]["path"], "/r");
        assert_eq!(derived.config["process"]["terminal"], true);
        assert_eq!(derived.config["process"]["env"], serde_json::json!(["TERM=xterm"]));
        let named = r#"{"root":{"path":"/r"},"process":{"args":["x"],"env":["TERM=vt100"]}}"#;
        assert_eq!(self::derived(named, true).unwrap().config["process"]["env"], serde_json::json!(["TERM=vt100"]));
        assert_eq!(self::derived(text, false).unwrap().config["process"].get("env"), None);
        assert_eq!((derived.stop_signal.as_str(), derived.owns_pids), ("TERM", false));
    }

    #[test]
    fn others_may_run_beside_what_writes_nothing_and_has_no_hooks() {
        for (root, hooks, shares) in [
            (r#""readonly":true"#, "{}", true),
            (r#""readonly":true"#, r#"{"prestart":[]}"#, true),
            (r#""readonly":true"#, r#"{"prestart":[],"poststop":[{"path":"/x"}]}"#, false),
            (r#""readonly":false"#, "{}", false),
            (r#""future":1"#, "{}", false),
        ] {
            let text = format!(r#"{{"root":{{"path":"/r",{root}}},"process":{{"args":["x"]}},"hooks":{hooks}}}"#);
            assert_eq!(derived(&text, false).unwrap().shares_bundle, shares, "{text}");
        }
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (text, complaint) in [
            ("{", "/b/web/config.json: EOF while parsing"),
            ("[]", "/b/web/config.json: the configuration is not an object"),
            ("{}", "root is missing"),
            (r#"{"root":{}}"#, "root.path is missing"),
            (r#"{"root":{"path":"r"}}"#, "process is missing"),
            (r#"{"root":{"path":"r"},"process":7}"#, "process is not an object"),
            (r#"{"root":{"path":"r"},"process":{"args":[]}}"#, "process.args is empty"),
            (r#"{"root":{"path":"r"},"mounts":[3]}"#, "an entry of mounts is not an object"),
        ] {
            let error = derived(text, false).unwrap_err();
            assert!(error.text().contains(complaint), "{text}: {error}");
        }
    }

    #[test]
    fn fuzz_shim_config() {
        let seed = r#"{"root":{"path":"./rootfs"},"process":{"args":["sh"],"terminal":true},
            "mounts":[{"destination":"/d","source":"data","options":["rbind"]}],
            "annotations":{"org.opencontainers.image.stopSignal":"SIGQUIT"},"linux":{"namespaces":[{"type":"pid"}]}}"#;
        crate::fuzz::fuzz("shim_config", &[seed.as_bytes().to_vec()], |input| {
            if let Ok(derived) = derive(input, Path::new("/b"), false) {
                assert!(derived.config["root"]["path"].as_str().is_some_and(|path| path.starts_with('/')));
                assert!(!derived.command.is_empty());
            }
        });
    }
}
