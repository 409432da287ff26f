//! `imgtool port`

use serde_json::json;

use super::{print, print_json};
use crate::bundle::{Port, published};
use crate::cli::{ListFormat, PortArgs};
use crate::error::{Error, Result, Step};

/// Lists the ports of a bundle as `docker port` does; of one port, where it is reached.
pub(crate) fn run(args: &PortArgs) -> Result<()> {
    let bundle = args.bundle.display();
    let mut ports = published(&args.bundle).at(&bundle)?;
    if let Some(asked) = &args.port {
        ports.retain(|port| asked.has(port));
        if ports.is_empty() {
            return Err(Error::missing(format!("{bundle}: no public port {asked} is published")));
        }
    }
    if args.format == ListFormat::Json {
        return print_json(&ports.iter().map(as_json).collect::<Vec<_>>());
    }
    ports.iter().try_for_each(|port| match &args.port {
        Some(asked) if asked.is_single() => print(port.address()),
        _ => print(format!("{}/{} -> {}", port.container, port.protocol, port.address())),
    })
}

fn as_json(port: &Port) -> serde_json::Value {
    let address = port.address();
    json!({
        "containerPort": port.container, "protocol": port.protocol, "hostIP": address.ip(), "hostPort": address.port(),
    })
}
