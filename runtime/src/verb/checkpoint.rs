//! `checkpoint`: a container to files.

use crate::cli::{CgroupsMode, Checkpoint, Criu, Global};
use libcontainer::{
    At, Error, Kind, Result,
    checkpoint::{self, Cgroups, Options},
    inside::descriptors,
};
use rustix::fs::{Mode, OFlags};

pub(crate) fn run(global: &Global, args: &Checkpoint) -> Result<u8> {
    descriptors::claim(0).at("descriptors")?;
    let slot = super::find(global, &args.id)?;
    let mut options = options(&args.criu)?;
    options.parent.clone_from(&args.parent_path);
    options.leave_running = args.leave_running;
    options.tcp_skip_in_flight = args.tcp_skip_in_flight;
    options.link_remap = args.link_remap;
    options.pre_dump = args.pre_dump;
    options.page_server = args.page_server.as_deref().map(page_server).transpose()?;
    if args.status_fd != -1 {
        // One of our own: the caller's number stays the caller's.
        let path = format!("/proc/self/fd/{}", args.status_fd);
        let opened = rustix::fs::open(path, OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty());
        options.status = Some(opened.at_with(|| format!("invalid --status-fd argument {}", args.status_fd))?);
    }
    checkpoint::dump(&slot, &options).at_with(|| format!("checkpoint {}", args.id))?;
    Ok(0)
}

/// What `checkpoint` and `restore` have in common.
pub(crate) fn options(args: &Criu) -> Result<Options> {
    if let Some(other) = args.empty_ns.iter().find(|it| *it != "network") {
        return Err(Error::new(
            Kind::Invalid,
            format!("--empty-ns: namespace {other:?} is not supported: use network"),
        ));
    }
    let absolute = |path| std::path::absolute(path).at("make a path absolute");
    Ok(Options {
        images: absolute(args.image_path.as_deref().unwrap_or("checkpoint".as_ref()))?,
        work: args.work_path.as_deref().map(absolute).transpose()?,
        tcp_established: args.tcp_established,
        ext_unix_sk: args.ext_unix_sk,
        shell_job: args.shell_job,
        file_locks: args.file_locks,
        auto_dedup: args.auto_dedup,
        lazy_pages: args.lazy_pages,
        cgroups: match args.manage_cgroups_mode {
            None => Cgroups::Default,
            Some(CgroupsMode::Soft) => Cgroups::Soft,
            Some(CgroupsMode::Full) => Cgroups::Full,
            Some(CgroupsMode::Strict) => Cgroups::Strict,
            Some(CgroupsMode::Ignore) => Cgroups::Ignore,
        },
        ..Options::default()
    })
}

/// `ADDRESS:PORT`, a v6 address in brackets.
fn page_server(text: &str) -> Result<(String, u16)> {
    let wrong = || Error::new(Kind::Invalid, "Use --page-server ADDRESS:PORT to specify page server");
    let (address, port) = text.rsplit_once(':').ok_or_else(wrong)?;
    let address = address.strip_prefix('[').and_then(|it| it.strip_suffix(']')).unwrap_or(address);
    let port = port.parse().ok().filter(|port| *port != 0).ok_or_else(wrong)?;
    if address.is_empty() { Err(wrong()) } else { Ok((address.to_owned(), port)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn page_servers_have_an_address_and_a_port() {
        assert_eq!(page_server("10.0.0.1:27").unwrap(), ("10.0.0.1".into(), 27));
        assert_eq!(page_server("[::1]:27").unwrap(), ("::1".into(), 27));
        for text in ["", ":27", "host", "host:", "host:0", "host:70000"] {
            assert!(page_server(text).is_err(), "{text}");
        }
    }
}
