//! `imgtool bundle`

use super::print;
use crate::bundle::{Network, Options, UserNs, check_init, find_init, given_ids, make, read_env_file};
use crate::cli::{BundleArgs, PullPolicy};
use crate::error::{Error, Kind, Result, Step};
use crate::layout::{Image, Layer, Store};
use crate::pull::Pull;
use crate::reference::Reference;
use crate::registry::Registries;

/// Makes a bundle, pulling what is missing, and prints its path, and nothing else, on stdout.
pub(crate) fn run(store: &Store, args: &BundleArgs) -> Result<()> {
    let store = &store.with_rights()?;
    let options = options(args, store.rights().own_namespace().is_none())?;
    store.create()?;
    // Held until the bundle's own record keeps its layers.
    let _hold = store.hold()?;
    let progress = args.layers.progress.make();
    let access = args.trust.over(args.registry.access())?;
    let registries = Registries::load()?;
    let pull = Pull {
        store,
        access: &access,
        registries: &registries,
        platform: args.layers.platform(),
        limits: args.layers.limits(),
        parallel: args.layers.parallel.into(),
        progress: &progress,
    };
    let (image, layers) = find(&pull, args).at(&args.image)?;
    let directory = make(store, &image, &layers, args.directory.as_deref(), &options, &progress).at(&args.image)?;
    print(directory.display())
}

fn find(pull: &Pull<'_>, args: &BundleArgs) -> Result<(Image, Vec<Layer>)> {
    if args.pull == PullPolicy::Always {
        return pull.run(&args.image.parse::<Reference>()?);
    }
    match pull.store.find(&args.image, &pull.platform) {
        Ok(image) if args.layers.platform.is_none() || pull.platform.score(&image.config.platform()).is_some() => {
            if args.pull == PullPolicy::Never && !pull.access.keys.is_empty() {
                return Err(Error::other(
                    "--verify-key: the registry has the signatures, and --pull never does not ask it",
                ));
            }
            pull.check_signature(&image)?;
            let layers = pull.layers(&image);
            match layers {
                // A blob that is gone or damaged can be had again, where the image came from a registry.
                Err(e)
                    if e.kind() == Kind::Damaged && args.pull == PullPolicy::Missing && image.reference().is_some() =>
                {
                    pull.run(&args.image.parse::<Reference>().map_err(|_| e)?)
                }
                layers => Ok((image, layers?)),
            }
        }
        Ok(image) if args.pull == PullPolicy::Never => {
            Err(Error::missing(format!("the image here is for {}, not {}", image.config.platform(), pull.platform)))
        }
        Err(e) if args.pull == PullPolicy::Never || !matches!(e.kind(), Kind::Missing | Kind::Damaged) => Err(e),
        // What an image of this platform would be is for the registry to say.
        Ok(_) => pull.run(&args.image.parse::<Reference>()?),
        Err(absent) => {
            let reference: Reference = args.image.parse().map_err(|_| absent.clone())?;
            pull.progress.say(&format!("{absent}: pulling it"));
            pull.run(&reference).map_err(|e| {
                // A slip of the pen is more frequent than a registry that is down.
                let at = e.at(format!("and not to be had as {}", places(pull, &reference)));
                Error::new(at.kind(), format!("{absent}, {at}"))
            })
        }
    }
}

/// Where an image is looked for, in words.
fn places(pull: &Pull<'_>, reference: &Reference) -> String {
    let candidates = pull.registries.candidates(reference).unwrap_or_else(|_| vec![reference.clone()]);
    candidates.iter().map(Reference::to_string).collect::<Vec<_>>().join(", ")
}

fn options(args: &BundleArgs, root: bool) -> Result<Options> {
    let mut env = Vec::new();
    for file in &args.env_file {
        env.extend(read_env_file(file)?);
    }
    env.extend(args.env.iter().cloned());
    // A published port wants a network that it can be reached by.
    let network = args.network.clone().unwrap_or(match (args.publish.is_empty() && !args.publish_all, root) {
        (true, _) => Network::None,
        (false, true) => Network::Bridge,
        (false, false) => Network::Pasta,
    });
    let init = match &args.init_path {
        Some(path) => Some(check_init(path)?),
        None => args.init.then(find_init).transpose()?,
    };
    let userns = match (&args.userns, args.uidmap.is_empty() && args.gidmap.is_empty()) {
        (wanted, true) => wanted.clone().unwrap_or_default(),
        (Some(UserNs::Host), false) => return Err(Error::other("--uidmap: --userns host has no ids of its own")),
        (_, false) => given_ids(&args.uidmap, &args.gidmap)?,
    };
    if !root && userns != UserNs::Host {
        return Err(Error::other("--userns: an ordinary user's bundle has all ids that the user may use already"));
    }
    Ok(Options {
        command: args.command.clone(),
        entrypoint: args.entrypoint.clone(),
        env,
        workdir: args.workdir.clone(),
        user: args.user.clone(),
        groups: args.group_add.clone(),
        tty: args.tty,
        init,
        hostname: args.hostname.clone(),
        network,
        pid: args.pid.clone(),
        ipc: args.ipc.clone(),
        uts: args.uts.clone(),
        cgroup: args.cgroupns.clone(),
        userns,
        publish: args.publish.clone(),
        expose: args.expose.clone(),
        publish_all: args.publish_all,
        dns: args.dns.clone(),
        dns_search: args.dns_search.clone(),
        resolver: args.dns_option.clone(),
        hosts: args.add_host.clone(),
        memory: args.memory,
        nano_cpus: args.cpus,
        pids: args.pids_limit,
        shm: args.shm_size,
        rlimits: args.ulimit.clone(),
        sysctl: args.sysctl.clone(),
        read_only: args.read_only,
        volumes: [args.volumes.as_slice(), &args.mount, &args.tmpfs].concat(),
        devices: args.device.clone(),
        cdi_dirs: args.cdi_spec_dir.clone(),
        cap_add: if args.privileged { vec!["ALL".to_owned()] } else { args.cap_add.clone() },
        cap_drop: args.cap_drop.clone(),
        privileged: args.privileged,
        security: args.security_opt.clone(),
        annotations: [args.label.as_slice(), &args.annotation].concat(),
        stop_signal: args.stop_signal.clone(),
        health: args.health.clone(),
        copy: args.copy,
    })
}
