//! Brings an image's layers into the store, unpacked: from the registry or from blobs that are there, several at a time.

use std::collections::HashMap;
use std::fs;
use std::io::Read;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use crate::digest::Digest;
use crate::error::{Error, Kind, Result, Step};
use crate::layer::{self, Job, Limits, LowerStack, Unpacked, open_root};
use crate::layout::{Acquired, Draft, Layer, Store, VerifiedReader};
use crate::oci::{Descriptor, ImageConfig, Manifest, layer_is_known};
use crate::progress::{Progress, Task};
use crate::registry::{Registry, RemoteBlob, Stop};

/// How layers are brought in.
pub(crate) struct Unpacking<'a> {
    pub(crate) store: &'a Store,
    /// Where blobs come from that the store does not have.
    pub(crate) registry: Option<&'a Registry>,
    pub(crate) stop: Arc<Stop>,
    pub(crate) progress: &'a Progress,
    pub(crate) limits: Limits,
    /// How many layers are worked on at a time; each takes two threads.
    pub(crate) parallel: usize,
}

/// A layer's place in an image.
struct Place<'a> {
    descriptor: &'a Descriptor,
    diff_id: &'a Digest,
    /// Chain ID of the layers below; `None` at the bottom.
    below: Option<Digest>,
}

/// A layer after the first pass.
enum First {
    Ready(Layer),
    /// Must be unpacked again, over the layers below it.
    Leaning,
}

impl Unpacking<'_> {
    /// All layers of the image, unpacked, the lowest first.
    pub(crate) fn layers(&self, manifest: &Manifest, config: &ImageConfig) -> Result<Vec<Layer>> {
        if let Some(note) = self.store.rights().note() {
            self.progress.say(note);
        }
        let mut places = Vec::new();
        let mut below: Option<Digest> = None;
        for (descriptor, diff_id) in manifest.layers.iter().zip(&config.rootfs.diff_ids) {
            if !layer_is_known(&descriptor.media_type) {
                let Descriptor { digest, media_type, .. } = descriptor;
                return Err(Error::malformed(format!("layer {digest}: unsupported media type {media_type:?}")));
            }
            places.push(Place { descriptor, diff_id, below: below.clone() });
            below = Some(Digest::chain(below.as_ref(), diff_id));
        }
        let first = self.first_pass(&places)?;
        let mut layers: Vec<Layer> = Vec::new();
        for (place, first) in places.iter().zip(first) {
            let layer = match first {
                First::Ready(layer) => layer,
                First::Leaning => self.over(place, &layers).with(|| format!("layer {}", place.descriptor.digest))?,
            };
            layers.push(layer);
        }
        Ok(layers)
    }

    /// Unpacks each layer by itself. The largest come first, so that none of them is left for the end.
    fn first_pass(&self, places: &[Place<'_>]) -> Result<Vec<First>> {
        // The same layer may stand in an image twice (empty layers do); at the bottom it counts as another.
        let mut work: Vec<usize> = Vec::new();
        let mut same: HashMap<(&Digest, bool), usize> = HashMap::new();
        for (at, place) in places.iter().enumerate() {
            same.entry((place.diff_id, place.below.is_none())).or_insert_with(|| {
                work.push(at);
                at
            });
        }
        work.sort_by_key(|&at| std::cmp::Reverse(places[at].descriptor.size));
        let next = AtomicUsize::new(0);
        let results: Mutex<HashMap<usize, Result<First>>> = Mutex::default();
        std::thread::scope(|scope| {
            for _ in 0..self.parallel.clamp(1, work.len().max(1)) {
                scope.spawn(|| {
                    while let Some(&at) = work.get(next.fetch_add(1, Ordering::Relaxed)) {
                        if self.stop.is_stopped() {
                            break;
                        }
                        let result = self.alone(&places[at]).with(|| format!("layer {}", places[at].descriptor.digest));
                        let failed = result.is_err();
                        let mut results = results.lock().unwrap_or_else(PoisonError::into_inner);
                        // Of several failures the first is the cause, later ones may only be echoes of the stop.
                        if !failed || !self.stop.is_stopped() {
                            results.insert(at, result);
                        }
                        if failed {
                            self.stop.stop();
                        }
                    }
                });
            }
        });
        let mut results = results.into_inner().unwrap_or_else(PoisonError::into_inner);
        if let Some(at) = work.iter().copied().find(|at| matches!(results.get(at), Some(Err(_))))
            && let Some(Err(e)) = results.remove(&at)
        {
            return Err(e);
        }
        let of = |place: &Place<'_>| {
            let at = same.get(&(place.diff_id, place.below.is_none()))?;
            match results.get(at)? {
                Ok(First::Ready(layer)) => Some(First::Ready(layer.clone())),
                Ok(First::Leaning) => Some(First::Leaning),
                Err(_) => None,
            }
        };
        places.iter().map(|place| of(place).ok_or_else(|| Error::other("a layer was not unpacked"))).collect()
    }

    /// Unpacks a layer without regard to those below.
    fn alone(&self, place: &Place<'_>) -> Result<First> {
        if let Some(layer) = self.store.layer(place.diff_id, place.below.as_ref())? {
            self.fetch_blob(place.descriptor)?;
            return Ok(First::Ready(layer));
        }
        let lock = self.store.lock_layer(place.diff_id)?;
        if let Some(layer) = self.store.layer(place.diff_id, place.below.as_ref())? {
            return Ok(First::Ready(layer)); // another process was faster
        }
        let nothing = LowerStack::default();
        let lower = if place.below.is_none() { Some(&nothing) } else { None };
        let (draft, unpacked) = self.unpack(place, place.diff_id, lower)?;
        if unpacked.needs_lower || (place.below.is_some() && !unpacked.self_contained) {
            return Ok(First::Leaning);
        }
        self.store.commit_layer(&draft, &lock, &unpacked).map(First::Ready)
    }

    /// Unpacks a layer that leans on those below, from its blob, which the first pass has fetched.
    fn over(&self, place: &Place<'_>, layers: &[Layer]) -> Result<Layer> {
        let key = Digest::chain(place.below.as_ref(), place.diff_id);
        let lock = self.store.lock_layer(&key)?;
        if let Some(layer) = self.store.layer(place.diff_id, place.below.as_ref())? {
            return Ok(layer);
        }
        let mut stack = Vec::new();
        for layer in visible(layers).iter().rev() {
            stack.push(open_root(&layer.diff())?);
        }
        let lower = LowerStack::new(stack);
        let (draft, mut unpacked) = self.unpack(place, &key, Some(&lower))?;
        unpacked.self_contained = false;
        self.store.commit_layer(&draft, &lock, &unpacked)
    }

    /// Reads the blob from wherever it is and unpacks it; tries once more from the registry when what was there is bad.
    fn unpack(&self, place: &Place<'_>, key: &Digest, lower: Option<&LowerStack>) -> Result<(Draft, Unpacked)> {
        let descriptor = place.descriptor;
        let mut second_try = false;
        loop {
            let (draft, root) = self.store.begin_layer(&key.file_name())?;
            let job = Job {
                diff_id: Some(place.diff_id),
                root,
                powers: self.store.rights().powers(),
                limits: self.limits,
                compressed: Some(descriptor.size),
                lower,
            };
            // Whether what an earlier run left can be at fault.
            let (result, doubtful) = match self.store.acquire(descriptor)? {
                Acquired::Complete => {
                    let task = self.task(descriptor, 0);
                    let blob = Counted { inner: self.store.open_blob(descriptor)?, task: &task };
                    let result = layer::unpack(blob, job, None);
                    let damaged = result.as_ref().is_err_and(|e| e.kind() == Kind::Damaged);
                    if damaged {
                        let _ = fs::remove_file(self.store.blob_path(&descriptor.digest));
                    } else if result.is_ok() {
                        task.finish("unpacked");
                    }
                    (result, damaged)
                }
                Acquired::Partial(partial) => {
                    let resumed = partial.have() > 0;
                    let task = self.task(descriptor, partial.have());
                    let remote = self.remote(descriptor, partial.have(), &task)?;
                    let all = partial.existing()?.chain(remote);
                    let blob = VerifiedReader::new(all, descriptor).with_copy(partial.writer()?, partial.have());
                    let result = layer::unpack(blob, job, None);
                    let mut bad = false;
                    match &result {
                        Ok(_) => {
                            partial.commit()?;
                            task.finish("pulled");
                        }
                        Err(e) if matches!(e.kind(), Kind::Damaged | Kind::Malformed) => {
                            bad = true;
                            partial.discard();
                        }
                        // Others want to write on that disk too.
                        Err(e) if e.kind() == Kind::Full => partial.discard(),
                        Err(_) => partial.keep(),
                    }
                    (result, bad && resumed)
                }
            };
            match result {
                Err(_) if doubtful && !second_try && self.registry.is_some() => second_try = true,
                result => {
                    let unpacked = result?;
                    if unpacked.devices_left_out > 0 {
                        let (count, digest) = (unpacked.devices_left_out, place.diff_id.short());
                        self.progress
                            .say(&format!("layer {digest}: {count} devices left out, only root may make them"));
                    }
                    return Ok((draft, unpacked));
                }
            }
        }
    }

    /// Fetches a blob whose layer is unpacked already, so that the image is whole for other tools.
    fn fetch_blob(&self, descriptor: &Descriptor) -> Result<()> {
        if self.registry.is_none() {
            return Ok(()); // without its blob the image can still be run
        }
        let Acquired::Partial(partial) = self.store.acquire(descriptor)? else {
            return Ok(());
        };
        let resumed = partial.have() > 0;
        let task = self.task(descriptor, partial.have());
        let all = partial.existing()?.chain(self.remote(descriptor, partial.have(), &task)?);
        let mut blob = VerifiedReader::new(all, descriptor).with_copy(partial.writer()?, partial.have());
        match std::io::copy(&mut blob, &mut std::io::sink()).map_err(Error::from) {
            Ok(_) => {
                partial.commit()?;
                task.finish("pulled");
                Ok(())
            }
            Err(e) if e.kind() == Kind::Damaged => {
                partial.discard();
                // What an earlier run left may be at fault.
                if resumed { self.fetch_blob(descriptor) } else { Err(e) }
            }
            Err(e) if e.kind() == Kind::Full => {
                partial.discard();
                Err(e)
            }
            Err(e) => {
                partial.keep();
                Err(e)
            }
        }
    }

    fn remote<'b>(&'b self, descriptor: &'b Descriptor, from: u64, task: &'b Task<'b>) -> Result<RemoteBlob<'b>> {
        let missing = || Error::damaged("its blob is not in the store (any more): pull the image again");
        let registry = self.registry.ok_or_else(missing)?;
        Ok(RemoteBlob::new(registry, descriptor, from, Box::new(|bytes| task.advance(bytes))))
    }

    fn task(&self, descriptor: &Descriptor, done: u64) -> Task<'_> {
        self.progress.task(&format!("layer {}", descriptor.digest.short()), descriptor.size, done)
    }
}

/// The layers that show: those from the topmost one that hides all below.
pub(crate) fn visible(layers: &[Layer]) -> &[Layer] {
    let from = layers.iter().rposition(|layer| layer.record.opaque_root).unwrap_or(0);
    &layers[from..]
}

/// These layers, the lowest first, to look into.
pub(crate) fn lower_stack(shown: &[Layer]) -> Result<LowerStack> {
    Ok(LowerStack::new(shown.iter().rev().map(|layer| open_root(&layer.diff())).collect::<Result<_>>()?))
}

/// Tells a task what was read.
struct Counted<'a, R> {
    inner: R,
    task: &'a Task<'a>,
}

impl<R: Read> Read for Counted<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let len = self.inner.read(buffer)?;
        self.task.advance(len as u64);
        Ok(len)
    }
}
