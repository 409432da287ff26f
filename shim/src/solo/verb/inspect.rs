//! `shim inspect`: everything that is known of containers.

use std::io::{self, Write};

use serde_json::{Map, Value, json};

use crate::error::Result;
use crate::solo::directory::{Directory, Layout};
use crate::solo::say;
use crate::solo::verb::ps;

/// Prints a list of the containers. One that cannot be found costs the exit code, not the others.
pub(crate) fn inspect(layout: &Layout, names: &[String]) -> Result<u8> {
    let mut code = 0;
    let mut found = Vec::new();
    for name in names {
        match layout.find(name).and_then(|directory| describe(&directory)) {
            Ok(container) => found.push(container),
            Err(error) => {
                let _: io::Result<()> = writeln!(io::stderr(), "shim: {error}");
                code = 1;
            }
        }
    }
    say(&serde_json::to_string_pretty(&found)?);
    Ok(code)
}

/// A container as JSON: what `ps` says of it, and what its files do.
fn describe(directory: &Directory) -> Result<Value> {
    let mut whole: Map<String, Value> = ps::describe(directory);
    whole.insert("options".into(), serde_json::to_value(directory.options()?)?);
    whole.insert("state".into(), serde_json::to_value(directory.state()?)?);
    whole.insert("exit".into(), serde_json::to_value(directory.ended()?)?);
    whole.insert("health_checks".into(), serde_json::to_value(directory.condition()?)?);
    let restarts = directory.restarted()?.map_or(0, |restarted| restarted.count);
    whole.insert("restarts".into(), restarts.into());
    whole.insert("directory".into(), json!(directory.path));
    whole.insert("log".into(), json!(directory.log()));
    whole.insert("socket".into(), json!(directory.socket()));
    Ok(whole.into())
}
