//! What a device's specification says, and what of it can be seen to be wrong without looking at the machine.

use std::path::PathBuf;

use serde::Deserialize;

use crate::error::{Error, Result};

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub(super) struct Edits {
    pub(super) env: Vec<String>,
    pub(super) device_nodes: Vec<Node>,
    pub(super) net_devices: Vec<NetDevice>,
    pub(super) hooks: Vec<Hook>,
    pub(super) mounts: Vec<Mount>,
    pub(super) intel_rdt: Option<IntelRdt>,
    #[serde(alias = "additionalGIDs")]
    pub(super) additional_gids: Vec<u32>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct Node {
    pub(super) path: String,
    pub(super) host_path: Option<PathBuf>,
    #[serde(rename = "type")]
    pub(super) kind: Option<String>,
    pub(super) major: Option<i64>,
    pub(super) minor: Option<i64>,
    pub(super) file_mode: Option<u32>,
    pub(super) permissions: Option<String>,
    pub(super) uid: Option<u32>,
    pub(super) gid: Option<u32>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct NetDevice {
    pub(super) host_interface_name: String,
    pub(super) name: String,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct Hook {
    #[serde(rename = "hookName")]
    pub(super) name: String,
    pub(super) path: String,
    #[serde(default)]
    pub(super) args: Vec<String>,
    #[serde(default)]
    pub(super) env: Vec<String>,
    pub(super) timeout: Option<u32>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct Mount {
    pub(super) host_path: String,
    pub(super) container_path: String,
    #[serde(default)]
    pub(super) options: Vec<String>,
    #[serde(rename = "type")]
    pub(super) kind: Option<String>,
}

/// As config.json has it.
#[derive(Clone, Debug, Deserialize, serde::Serialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct IntelRdt {
    #[serde(rename = "closID", skip_serializing_if = "Option::is_none")]
    pub(super) clos: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) l3_cache_schema: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) mem_bw_schema: Option<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(super) schemata: Vec<String>,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(super) enable_monitoring: bool,
    /// Of versions before 1.1.
    #[serde(rename = "enableCMT", default, skip_serializing_if = "std::ops::Not::not")]
    pub(super) enable_cmt: bool,
    #[serde(rename = "enableMBM", default, skip_serializing_if = "std::ops::Not::not")]
    pub(super) enable_mbm: bool,
}

const HOOKS: [&str; 6] = ["prestart", "createRuntime", "createContainer", "startContainer", "poststart", "poststop"];

fn absolute(what: &str, path: &str) -> Result<()> {
    if path.starts_with('/') && !path.contains('\0') {
        return Ok(());
    }
    Err(Error::malformed(format!("{what} {path:?}: want an absolute path")))
}

impl Edits {
    /// Refuses that.
    pub(super) fn check(&self) -> Result<()> {
        let bad = |text: String| Err(Error::malformed(text));
        if let Some(entry) = self.env.iter().find(|e| e.find('=').is_none_or(|at| at == 0) || e.contains('\0')) {
            return bad(format!("env {entry:?}: want NAME=VALUE"));
        }
        for node in &self.device_nodes {
            absolute("deviceNodes: path", &node.path)?;
            if let Some(path) = &node.host_path {
                absolute("deviceNodes: hostPath", &path.to_string_lossy())?;
            }
            if node.kind.as_deref().is_some_and(|kind| !matches!(kind, "" | "b" | "c" | "u" | "p")) {
                return bad(format!("deviceNodes: {}: type {:?}: want b, c, u or p", node.path, node.kind));
            }
            let access = node.permissions.as_deref().unwrap_or_default();
            if access != "none" && !access.bytes().all(|b| b"rwm".contains(&b)) {
                return bad(format!(
                    "deviceNodes: {}: permissions {access:?}: want letters of rwm, or none",
                    node.path
                ));
            }
        }
        for mount in &self.mounts {
            absolute("mounts: containerPath", &mount.container_path)?;
            if mount.host_path.is_empty() {
                return bad("mounts: hostPath is empty".to_owned());
            }
            if mount.is_bind() {
                absolute("mounts: hostPath", &mount.host_path)?;
            } else if mount.kind.as_deref().is_none_or(str::is_empty) {
                return bad(format!("mounts: {}: neither a type nor bind among the options", mount.container_path));
            }
        }
        for hook in &self.hooks {
            if !HOOKS.contains(&hook.name.as_str()) {
                return bad(format!("hooks: {:?}: want one of {}", hook.name, HOOKS.join(", ")));
            }
            absolute(&format!("hooks: {}: path", hook.name), &hook.path)?;
            if hook.timeout == Some(0) {
                return bad(format!("hooks: {}: a timeout of 0", hook.name));
            }
        }
        if let Some(clos) = self.intel_rdt.as_ref().and_then(|rdt| rdt.clos.as_deref())
            && (matches!(clos, "" | "." | "..") || clos.contains(['/', '\n']))
        {
            return bad(format!("intelRdt: closID {clos:?}"));
        }
        for device in &self.net_devices {
            if device.host_interface_name.is_empty() || device.name.is_empty() {
                return bad("netDevices: an empty name".to_owned());
            }
        }
        Ok(())
    }
}

impl Mount {
    pub(super) fn is_bind(&self) -> bool {
        self.options.iter().any(|option| option == "bind" || option == "rbind") || self.kind.as_deref() == Some("bind")
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    pub(in super::super) fn edits(yaml: &str) -> Result<Edits> {
        let edits: Edits =
            serde_json::from_value(super::super::yaml::parse(yaml)?).map_err(|e| Error::other(e.to_string()))?;
        edits.check().map(|()| edits)
    }

    #[test]
    fn edits_that_mean_nothing_are_refused() {
        for (text, why) in [
            ("env: [=x]", "env"),
            ("deviceNodes: [{path: dev/x}]", "absolute"),
            ("deviceNodes: [{path: /dev/x, type: z}]", "want b, c"),
            ("deviceNodes: [{path: /dev/x, permissions: rx}]", "rwm"),
            ("deviceNodes: [{path: /dev/x, mode: 1}]", "unknown field"),
            ("mounts: [{hostPath: /a, containerPath: b, options: [bind]}]", "absolute"),
            ("mounts: [{hostPath: a, containerPath: /b, options: [bind]}]", "absolute"),
            ("mounts: [{hostPath: /a, containerPath: /b}]", "neither a type"),
            ("hooks: [{hookName: before, path: /x}]", "createRuntime"),
            ("hooks: [{hookName: poststart, path: x}]", "absolute"),
            ("hooks: [{hookName: poststart, path: /x, timeout: 0}]", "timeout"),
            ("intelRdt: {closID: ../x}", "closID"),
            ("netDevices: [{hostInterfaceName: x, name: ''}]", "empty name"),
            ("additionalGids: [-1]", "invalid value"),
        ] {
            let error = edits(text).unwrap_err().to_string();
            assert!(error.contains(why), "{text}: {error}");
        }
    }
}
