//! `--allow`: what steps may do besides, and the devices of the machine that they ask for (`RUN --device`).

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use super::builder::Work;
use super::parse::{Device, Instruction, Run, csv};
use super::source::{Fault, Result, did_you_mean};
use crate::cdi::{self, Devices};
use crate::error::Error;

/// One `--allow`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Allow {
    /// `network.host` or `security.insecure`, or both with a comma between them.
    Words { network_host: bool, insecure: bool },
    /// `device`: all of them.
    Devices,
    /// `device=NAME[,alias=OTHER]`: this one; the Dockerfile may have another name for it.
    Device { name: String, alias: Option<String> },
}

impl std::str::FromStr for Allow {
    type Err = Error;

    fn from_str(text: &str) -> crate::error::Result<Self> {
        const KNOWN: [&str; 3] = ["network.host", "security.insecure", "device"];
        let bad =
            |why: String| Error::malformed(format!("{why}: want network.host, security.insecure or device[=NAME]"));
        if text == "device" {
            return Ok(Self::Devices);
        }
        if let Some(rest) = text.strip_prefix("device=") {
            let mut fields = csv(rest)?.into_iter();
            let name = fields.next().filter(|name| !name.is_empty()).ok_or_else(|| bad("which device".to_owned()))?;
            let mut alias = None;
            for field in fields {
                match field.split_once('=') {
                    Some(("alias", value)) if !value.is_empty() => alias = Some(value.to_owned()),
                    _ => return Err(bad(format!("unknown {field:?}"))),
                }
            }
            return Ok(Self::Device { name, alias });
        }
        let (mut network_host, mut insecure) = (false, false);
        for word in text.split(',') {
            match word {
                "network.host" => network_host = true,
                "security.insecure" => insecure = true,
                other => return Err(bad(format!("{other}{}", did_you_mean(other, KNOWN)))),
            }
        }
        Ok(Self::Words { network_host, insecure })
    }
}

/// All that is allowed.
#[derive(Debug, Default)]
pub(crate) struct Allowed {
    pub(crate) network_host: bool,
    pub(crate) insecure: bool,
    all_devices: bool,
    /// By the name that the Dockerfile has, the one that the machine has.
    devices: BTreeMap<String, Option<String>>,
    /// The machine's, once they were asked for, and where they are described.
    known: Mutex<Option<Arc<Devices>>>,
    directories: Vec<std::path::PathBuf>,
}

impl Allowed {
    pub(crate) fn of(all: &[Allow], network_host: bool, directories: &[std::path::PathBuf]) -> Self {
        let mut allowed = Self { network_host, directories: directories.to_vec(), ..Self::default() };
        for one in all {
            match one {
                Allow::Words { network_host, insecure } => {
                    allowed.network_host |= network_host;
                    allowed.insecure |= insecure;
                }
                Allow::Devices => allowed.all_devices = true,
                Allow::Device { name, alias: None } => drop(allowed.devices.insert(name.clone(), None)),
                Allow::Device { name, alias: Some(alias) } => {
                    allowed.devices.insert(alias.clone(), Some(name.clone()));
                }
            }
        }
        allowed
    }

    fn known(&self) -> crate::error::Result<Arc<Devices>> {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(devices) = &*known {
            return Ok(Arc::clone(devices));
        }
        let devices = Arc::new(Devices::read(&self.directories)?);
        *known = Some(Arc::clone(&devices));
        Ok(devices)
    }

    /// The devices that a request means: all of them allowed, or none of them is given.
    fn choose(&self, request: &Device, known: &Devices) -> crate::error::Result<Vec<cdi::Device>> {
        let (name, by_alias) = match self.devices.get(&request.name) {
            Some(Some(name)) => (name, true),
            _ => (&request.name, false),
        };
        let granted: Vec<&str> = self
            .devices
            .iter()
            .filter(|(_, other)| other.is_none())
            .flat_map(|(name, _)| known.find(name))
            .map(|device| device.name.as_str())
            .collect();
        let found = known.find(name);
        for device in &found {
            let name = device.name.as_str();
            if !(self.all_devices || by_alias || device.is_free() || granted.contains(&name)) {
                let text =
                    format!("device {name} is not allowed: give --allow device={name}, or --allow device for all");
                return Err(Error::other(text));
            }
        }
        if found.is_empty() && request.required {
            return Err(known.missing(name));
        }
        Ok(found.into_iter().cloned().collect())
    }
}

impl Work<'_> {
    /// Refuses what a step may not do, before anything is done for it.
    pub(crate) fn entitled(&self, command: &Instruction, run: &Run) -> Result<()> {
        use super::parse::{Security, StepNetwork};
        let allowed = &self.builder.allowed;
        let asked = [
            (run.security == Security::Insecure && !allowed.insecure, "--security=insecure", "security.insecure"),
            (run.network == StepNetwork::Host && !allowed.network_host, "--network=host", "network.host"),
        ];
        match asked.iter().find(|(refused, ..)| *refused) {
            None => Ok(()),
            Some((_, flag, word)) => {
                Err(Fault::at(command.span(), format!("{flag} is not allowed: give --allow {word} to the build")))
            }
        }
    }

    /// The devices that a step asks for. One that is not there and not required is told of and left out.
    pub(crate) fn devices(&self, command: &Instruction, run: &Run) -> Result<Vec<cdi::Device>> {
        let mut all: Vec<cdi::Device> = Vec::new();
        for (word, request) in &run.devices {
            let allowed = &self.builder.allowed;
            let found = allowed.known().and_then(|known| Ok((allowed.choose(request, &known)?, known)));
            let (found, known) = found.map_err(|error| Fault { span: Some(command.at(word)), error })?;
            if found.is_empty() {
                self.builder.display.note(&format!("[Warning] {}: goes on without", known.missing(&request.name)));
            }
            all.extend(found);
        }
        let mut seen = std::collections::BTreeSet::new();
        all.retain(|device| seen.insert(device.name.clone()));
        Ok(all)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_devices_and_aliases_are_allowed() {
        let allow = |text: &str| text.parse::<Allow>();
        assert_eq!(allow("network.host").unwrap(), Allow::Words { network_host: true, insecure: false });
        assert_eq!(
            allow("network.host,security.insecure").unwrap(),
            Allow::Words { network_host: true, insecure: true }
        );
        assert_eq!(allow("device").unwrap(), Allow::Devices);
        let device =
            |name: &str, alias: Option<&str>| Allow::Device { name: name.into(), alias: alias.map(str::to_owned) };
        assert_eq!(allow("device=v.com/c=x").unwrap(), device("v.com/c=x", None));
        assert_eq!(allow("device=v.com/c=x,alias=gpu").unwrap(), device("v.com/c=x", Some("gpu")));
        for bad in ["", "device=", "network", "device=x,y=z", "device=x,alias=", "security.insecure,device"] {
            assert!(allow(bad).is_err(), "{bad}");
        }
        assert!(allow("devices").unwrap_err().to_string().contains("did you mean device"));
    }
}
