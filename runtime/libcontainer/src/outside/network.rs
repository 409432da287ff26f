//! Counters of a container's network interfaces.

use crate::{
    error::{At, Result},
    process,
    spec::NamespaceKind,
    store::State,
};
use serde::Serialize;

/// One interface, as the container sees it. The names are those that runc prints.
#[derive(Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "PascalCase")]
#[allow(missing_docs)] // the kernel's own names
pub struct Interface {
    pub name: String,
    pub rx_bytes: u64,
    pub rx_packets: u64,
    pub rx_errors: u64,
    pub rx_dropped: u64,
    pub tx_bytes: u64,
    pub tx_packets: u64,
    pub tx_errors: u64,
    pub tx_dropped: u64,
}

/// The interfaces of a container that has a network of its own, but for the loopback.
pub fn interfaces(state: &State) -> Result<Vec<Interface>> {
    if !state.namespaces.contains(&NamespaceKind::Network) {
        return Ok(Vec::new());
    }
    let path = format!("/proc/{}/net/dev", state.pid);
    let table = std::fs::read_to_string(&path).at_with(|| format!("read {path}"))?;
    // Looked at afterwards: the number was init's when the table was read.
    Ok(if process::is_alive(state.pid, state.start_time) { parse(&table) } else { Vec::new() })
}

/// Two lines of heading, then `name: ` and eight numbers for each direction (proc_pid_net(5)).
fn parse(table: &str) -> Vec<Interface> {
    let interface = |line: &str| {
        let (name, rest) = line.split_once(':')?;
        let numbers: Vec<u64> = rest.split_whitespace().map_while(|word| word.parse().ok()).collect();
        let [rx_bytes, rx_packets, rx_errors, rx_dropped, _, _, _, _, tx_bytes, tx_packets, tx_errors, tx_dropped, ..] =
            numbers[..]
        else {
            return None;
        };
        let name = name.trim().to_owned();
        Some(Interface {
            name,
            rx_bytes,
            rx_packets,
            rx_errors,
            rx_dropped,
            tx_bytes,
            tx_packets,
            tx_errors,
            tx_dropped,
        })
    };
    table.lines().skip(2).filter_map(interface).filter(|it| it.name != "lo").collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_table_is_read() {
        let table = "Inter-|   Receive  |  Transmit\n face |bytes ...\n    lo: 9 9 9 9 9 9 9 9 9 9 9 9 9 9 9 9\n\
            eth0: 1 2 3 4 0 0 0 0 5 6 7 8 0 0 0 0\n  odd: 1 2\n";
        let found = parse(table);
        assert_eq!(found.len(), 1);
        let json = serde_json::to_string(&found).unwrap();
        assert_eq!(
            json,
            r#"[{"Name":"eth0","RxBytes":1,"RxPackets":2,"RxErrors":3,"RxDropped":4,"TxBytes":5,"TxPackets":6,"TxErrors":7,"TxDropped":8}]"#
        );
    }
}
