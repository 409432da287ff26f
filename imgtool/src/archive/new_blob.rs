//! A layer that is made here: its tar is compressed and hashed as it is written.

use std::io::{self, Write};

use clap::ValueEnum;
use flate2::write::GzEncoder;

use crate::digest::{Algorithm, Hasher};
use crate::error::{Error, Result};
use crate::layer::TarSink;
use crate::layout::Store;
use crate::new_file::NewFile;
use crate::oci::{self, Descriptor};

/// gzip's level: twice as fast as the usual 6, for a few per cent in size.
const GZIP_LEVEL: i32 = 3;
const ZSTD_LEVEL: i32 = 3;

/// How a new layer is kept.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum LayerCompression {
    /// Read by every tool.
    #[default]
    Gzip,
    /// Faster and smaller; old tools do not read it.
    Zstd,
    /// As it is.
    None,
}

/// A blob under way; it goes away unless it is finished.
pub(super) struct NewBlob {
    sink: Sink,
    compression: LayerCompression,
}

impl NewBlob {
    pub(super) fn new(store: &Store, compression: LayerCompression, level: Option<i32>) -> Result<Self> {
        let output = Output { new: store.new_file()?, hasher: Hasher::new(Algorithm::Sha256), size: 0 };
        let checked = |most: i32, usual: i32| match level.unwrap_or(usual) {
            level if (1..=most).contains(&level) => Ok(level),
            _ => Err(Error::malformed(format!("--compression-level: want 1 to {most}"))),
        };
        let sink = match compression {
            LayerCompression::None if level.is_some() => {
                return Err(Error::malformed("--compression-level: there is no compression"));
            }
            LayerCompression::None => Sink::Plain(output),
            LayerCompression::Gzip => {
                let level = checked(9, GZIP_LEVEL)?.unsigned_abs();
                Sink::Gzip(GzEncoder::new(output, flate2::Compression::new(level)))
            }
            LayerCompression::Zstd => Sink::Zstd(zstd::stream::write::Encoder::new(output, checked(22, ZSTD_LEVEL)?)?),
        };
        Ok(Self { sink, compression })
    }

    /// Takes the blob into the store.
    pub(super) fn finish(self, store: &Store) -> Result<Descriptor> {
        let output = match self.sink {
            Sink::Plain(output) => output,
            Sink::Gzip(encoder) => encoder.finish()?,
            Sink::Zstd(encoder) => encoder.finish()?,
        };
        let digest = output.hasher.finish();
        store.adopt_blob(&digest, output.new)?;
        let media_type = match self.compression {
            LayerCompression::Gzip => oci::OCI_LAYER_GZIP,
            LayerCompression::Zstd => oci::OCI_LAYER_ZSTD,
            LayerCompression::None => oci::OCI_LAYER,
        };
        Ok(Descriptor::new(media_type, digest, output.size))
    }
}

impl Write for NewBlob {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match &mut self.sink {
            Sink::Plain(output) => output.write(bytes),
            Sink::Gzip(encoder) => encoder.write(bytes),
            Sink::Zstd(encoder) => encoder.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl TarSink for NewBlob {
    fn take(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.write_all(bytes)
    }
}

enum Sink {
    Plain(Output),
    Gzip(GzEncoder<Output>),
    Zstd(zstd::stream::write::Encoder<'static, Output>),
}

/// The blob's file, hashed as it is written.
struct Output {
    new: NewFile,
    hasher: Hasher,
    size: u64,
}

impl Write for Output {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let len = self.new.file().write(bytes)?;
        self.hasher.update(&bytes[..len]);
        self.size += len as u64;
        Ok(len)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
