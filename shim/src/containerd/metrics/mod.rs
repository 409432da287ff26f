//! Resource usage of a container as containerd's metrics messages, for cgroup v1 and v2.
//!
//! A file that a controller or kernel does not have leaves its fields zero, as containerd's own readers do.

mod files;
mod v1;
mod v2;

use containerd_shim_protos::protobuf::Message;
use containerd_shim_protos::protobuf::well_known_types::any::Any;

use crate::cgroup::Cgroup;
use crate::error::{Error, Kind, Result};

/// The usage of `cgroup`, packed.
pub(crate) fn collect(cgroup: &Cgroup) -> Result<Any> {
    let gone = || Error::new(Kind::NotFound, "cgroup does not exist");
    let encode = |bytes: containerd_shim_protos::protobuf::Result<Vec<u8>>| {
        bytes.map_err(|error| Error::other(format!("encode metrics: {error}")))
    };
    let (type_url, value) = if cgroup.unified {
        let dir = cgroup.unified_dir().filter(|dir| dir.is_dir()).ok_or_else(gone)?;
        ("io.containerd.cgroups.v2.Metrics", encode(v2::collect(&dir).write_to_bytes())?)
    } else {
        // The container's own directories vanish together.
        cgroup
            .legacy_dir("memory")
            .or_else(|| cgroup.legacy_dir("pids"))
            .filter(|dir| dir.is_dir())
            .ok_or_else(gone)?;
        ("io.containerd.cgroups.v1.Metrics", encode(v1::collect(cgroup).write_to_bytes())?)
    };
    Ok(Any { type_url: type_url.into(), value, ..Any::default() })
}
