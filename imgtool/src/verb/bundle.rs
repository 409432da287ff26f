//! `imgtool bundle`

use super::{print, require_root};
use crate::bundle::{Options, make};
use crate::cli::{BundleArgs, PullPolicy};
use crate::error::{Error, Kind, Result, Step};
use crate::layout::{Image, Layer, Store};
use crate::progress::Progress;
use crate::pull::Pull;
use crate::reference::Reference;
use crate::registry::Registries;

/// Makes a bundle, pulling what is missing, and prints its path, and nothing else, on stdout.
pub(crate) fn run(store: &Store, args: &BundleArgs) -> Result<()> {
    require_root()?;
    store.create()?;
    // Held until the bundle's own record keeps its layers.
    let _hold = store.hold()?;
    let progress = Progress::new(args.layers.quiet);
    let access = args.registry.access();
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
    let directory =
        make(store, &image, &layers, args.directory.as_deref(), &options(args), &progress).at(&args.image)?;
    print(directory.display())
}

fn find(pull: &Pull<'_>, args: &BundleArgs) -> Result<(Image, Vec<Layer>)> {
    if args.pull == PullPolicy::Always {
        return pull.run(&args.image.parse::<Reference>()?);
    }
    match pull.store.find(&args.image, &pull.platform) {
        Ok(image) if args.layers.platform.is_none() || pull.platform.score(&image.config.platform()).is_some() => {
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
        _ => pull.run(&args.image.parse::<Reference>()?),
    }
}

fn options(args: &BundleArgs) -> Options {
    Options {
        command: args.command.clone(),
        entrypoint: args.entrypoint.clone(),
        env: args.env.clone(),
        workdir: args.workdir.clone(),
        user: args.user.clone(),
        hostname: args.hostname.clone(),
        network: args.network,
        memory: args.memory,
        nano_cpus: args.cpus,
        pids: args.pids_limit,
        read_only: args.read_only,
        volumes: args.volumes.clone(),
        cap_add: args.cap_add.clone(),
        cap_drop: args.cap_drop.clone(),
    }
}
