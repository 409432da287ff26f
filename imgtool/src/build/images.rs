//! Images that stages begin with, and that files are taken from: of the store, of a layout, or pulled.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use super::builder::Builder;
use super::contexts::Named;
use super::exchange;
use super::source::{Locate as _, Result, Span};
use super::state::State;
use crate::error::{Error, Step};
use crate::layout::{Layer, Store};
use crate::platform::Platform;

/// An image that was asked for, once it is there.
type Known = Arc<Mutex<Option<State>>>;

/// Where images that are not in the store come from.
pub(crate) struct Images {
    pub(crate) access: crate::registry::Access,
    pub(crate) always: bool,
    pub(crate) never: bool,
    /// Those that were asked for: stages that begin with the same one wait for the first, and it is told of once.
    pub(crate) known: Mutex<HashMap<(String, String), Known>>,
}

impl Builder {
    /// An image by name: a named context, of the store, or pulled.
    pub(crate) fn image(&self, name: &str, platform: &Platform, span: Span) -> Result<State> {
        let slot = {
            let mut known = self.images.known.lock().unwrap_or_else(PoisonError::into_inner);
            Arc::clone(known.entry((name.to_owned(), platform.to_string())).or_default())
        };
        let mut slot = slot.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(state) = &*slot {
            return Ok(state.clone());
        }
        let title = format!("FROM {name}");
        let step = self.display.begin(&self.step_name(&title, None));
        let result = match self.contexts.iter().find(|(have, _)| have.eq_ignore_ascii_case(name)) {
            Some((_, Named::Image(image))) => self.named_image(image, platform),
            Some((_, Named::Layout(layout))) => self.layout_image(layout, platform),
            Some((_, Named::Directory(_) | Named::Git(_) | Named::Tar(_))) => {
                Err(Error::malformed("the context of this name has files to copy: it cannot be an image"))
            }
            None => self.named_image(name, platform),
        };
        match &result {
            Ok(state) => {
                *slot = Some(state.clone());
                self.display.done(step);
            }
            Err(e) => self.display.failed(step, &e.to_string()),
        }
        result.with(|| name.to_owned()).locate(span)
    }

    fn named_image(&self, name: &str, platform: &Platform) -> crate::error::Result<State> {
        let progress = self.display.transfers();
        let registries = crate::registry::Registries::load()?;
        let pull = crate::pull::Pull {
            store: &self.store,
            access: &self.images.access,
            registries: &registries,
            platform: platform.clone(),
            limits: crate::layer::Limits::default(),
            parallel: 3,
            progress: &progress,
        };
        let fits = |image: &crate::layout::Image| platform.score(&image.config.platform()).is_some();
        let have = if self.images.always { None } else { self.store.find(name, platform).ok() };
        if let Some(image) = have {
            // An image of another platform is taken where nothing else can be had, as docker does, with a warning.
            if fits(&image) || self.images.never || image.reference().is_none() {
                let layers = pull.layers(&image)?;
                return Ok(self.material(&image, layers));
            }
        }
        if self.images.never {
            return Err(Error::missing("no such image in the store, and --pull=never"));
        }
        let (image, layers) = pull.run(&name.parse()?)?;
        Ok(self.material(&image, layers))
    }

    fn layout_image(&self, layout: &str, platform: &Platform) -> crate::error::Result<State> {
        let (directory, name) = crate::transfer::LayoutDir::parse(layout);
        let other = Store::at(&directory)?;
        let index = other.index()?;
        let entry = match &name {
            Some(name) => index
                .manifests
                .iter()
                .find(|entry| entry.annotation(crate::layout::NAME) == Some(name) || entry.digest.to_string() == *name),
            None => index.manifests.first(),
        };
        let entry = entry.ok_or_else(|| Error::missing(format!("{}: no such image in it", directory.display())))?;
        let image = other.load(entry, platform)?;
        for blob in image.manifest.layers.iter().chain([&image.manifest.config]) {
            exchange::take_blob(&self.store, &other, blob)?;
        }
        let layers = exchange::unpack(&self.store, &image.manifest, &image.config, &self.display)?;
        Ok(self.material(&image, layers))
    }

    /// An image that goes into the build.
    fn material(&self, image: &crate::layout::Image, layers: Vec<Layer>) -> State {
        let mut materials = self.materials.lock().unwrap_or_else(PoisonError::into_inner);
        materials.insert(image.display(), image.descriptor.digest.clone());
        State::of(image, layers)
    }
}
