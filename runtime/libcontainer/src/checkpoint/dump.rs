//! A container to files.

use super::{
    DESCRIPTORS, Dirs, Options, common,
    criu::{self, Criu, Kinds},
    explain,
    external::{self, text},
    make_dir, refuse_parent, write_new,
};
use crate::{
    error::{At, Error, Kind, Result},
    life::{self, Status},
    spec::Spec,
    store::{NOTIFY_PLACE, Slot},
};
use std::{fs, os::fd::AsFd, path::Path};

const LOG: &str = "dump.log";
const LOGS: [&str; 2] = [LOG, "stats-dump"];

/// Writes the container to `options.images`. It is deleted afterwards, unless it was to go on.
///
/// # Errors
/// [`Kind::NotRunning`] for a container that does not run; what criu says, after which the container goes on.
pub fn dump(slot: &Slot, options: &Options) -> Result<()> {
    slot.lock()?;
    let state = life::load(slot)?;
    match Status::of(slot, &state) {
        Status::Running | Status::Paused => {}
        status => {
            return Err(Error::new(Kind::NotRunning, format!("Container cannot be checkpointed in {status} state")));
        }
    }
    let spec = Spec::parse(&slot.config()?)?;
    make_dir(&options.images, "--image-path")?;
    let dirs = Dirs::open(options, slot, LOGS)?;
    if let Some(parent) = &options.parent {
        refuse_parent(parent, &options.images)?;
    }
    if options.pre_dump || options.lazy_pages {
        Criu::require(options.pre_dump, options.lazy_pages).at("criu feature check")?;
    }

    let config = state.annotations.get("org.criu.config").map(String::as_str);
    let mut request = common(options, LOG, config);
    dirs.tell(&mut request);
    request.pid(state.pid);
    request.root(&text(&state.rootfs)?);
    request.flags(&[
        (criu::LEAVE_RUNNING, options.leave_running),
        (criu::TCP_SKIP_IN_FLIGHT, options.tcp_skip_in_flight),
        (criu::LINK_REMAP, options.link_remap),
    ]);
    if let Some(hierarchy) = state.cgroup.freezer().hierarchies.first() {
        request.freezer(&text(&hierarchy.dir())?);
    }
    if let Some((address, port)) = &options.page_server {
        request.page_server(address, *port);
    }
    if let Some(parent) = &options.parent {
        request.parent(parent);
        request.flags(&[(criu::TRACK_MEM, true)]);
    }
    for namespace in &spec.linux.namespaces {
        use std::os::unix::fs::MetadataExt;
        if let (Some((name, key)), Some(path)) = (external::key(namespace.kind), &namespace.path) {
            let inode = fs::metadata(path).at_with(|| path.display().to_string())?.ino();
            request.external(&format!("{name}[{inode}]:{key}"));
        }
    }
    if !options.pre_dump {
        for mount in external::mounts(&spec, &state.cgroup, &state.rootfs, &state.bundle)? {
            request.external_mount(&mount.destination, &mount.destination);
        }
        if slot.notify_directory()?.is_some() {
            request.external_mount(NOTIFY_PLACE, NOTIFY_PLACE);
        }
        for path in spec.linux.masked_paths.iter().filter(|it| is_masked_file(state.pid, it)) {
            request.external_mount(&text(path)?, "/dev/null");
        }
        let names = serde_json::to_vec(&streams(state.pid)).map_err(|error| Error::other(error.to_string()))?;
        write_new(dirs.images.as_fd(), DESCRIPTORS, &names).at_with(|| format!("write {DESCRIPTORS}"))?;
    }

    let kind = if options.pre_dump { Kinds::PreDump } else { Kinds::Dump };
    let dumped = Criu::start(false, &[], None)?.serve(kind, &request, |notification| {
        if let ("status-ready", Some(status)) = (notification.script.as_str(), &options.status) {
            rustix::io::write(status, &[0]).at("--status-fd")?;
        }
        Ok(())
    });
    let dumped = dumped.map_err(|error| explain(error, &dirs, options, LOG));
    dirs.publish(LOGS);
    dumped?;
    if options.leave_running || options.pre_dump {
        return Ok(());
    }
    life::delete(slot, true)
}

/// Directories are masked by a file system of their own, which criu takes along.
fn is_masked_file(pid: i32, path: &Path) -> bool {
    let inside = format!("/proc/{pid}/root{}", path.display());
    fs::symlink_metadata(inside).is_ok_and(|found| !found.is_dir() && !found.is_symlink())
}

/// What standard input, output and error are: `pipe:[7]`, `/dev/null`.
fn streams(pid: i32) -> Vec<String> {
    let name = |fd| fs::read_link(format!("/proc/{pid}/fd/{fd}")).map(|it| it.to_string_lossy().into_owned());
    (0..3).map(|fd| name(fd).unwrap_or_default()).collect()
}
