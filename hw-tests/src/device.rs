//! A device: the image on a drive of its own, and the site around it. It may be booted again and again.

use crate::folder::Folder;
use crate::image::{DISK_OCTETS, Image};
use crate::site::Site;
use crate::vm::{BOOT_MAX, Credential, Vm, VmOptions};
use std::path::PathBuf;

/// A device that is off.
#[derive(Debug)]
pub struct Device {
    /// What was written onto its drive in the factory.
    pub image: Image,
    /// The test's folder.
    pub folder: Folder,
    /// Directory and next hops.
    pub site: Site,
}

impl Device {
    /// A device as it leaves the factory, for a test of this name.
    #[must_use]
    pub fn from_factory(test: &str) -> Self {
        Self::with_drive(test, DISK_OCTETS)
    }

    /// A device with a drive of this size.
    #[must_use]
    pub fn with_drive(test: &str, octets: u64) -> Self {
        let device = Self { image: Image::find(), folder: Folder::named(test), site: Site::new() };
        device.image.write_disk(&device.drive(), octets);
        device
    }

    /// Its drive.
    #[must_use]
    pub fn drive(&self) -> PathBuf {
        self.folder.join("drive.img")
    }

    /// The machine with its drive, and the site's bootstrap in SMBIOS.
    #[must_use]
    pub fn options(&self) -> VmOptions {
        let bootstrap = Some(Credential::Smbios(self.site.bootstrap()));
        VmOptions { bootstrap, ..VmOptions::new(self.drive()) }
    }

    /// Switches it on. The console goes into `NAME.log`.
    #[must_use]
    pub fn boot(&self, name: &str) -> Vm {
        self.boot_with(name, &self.options())
    }

    /// Switches another machine on.
    #[must_use]
    pub fn boot_with(&self, name: &str, options: &VmOptions) -> Vm {
        Vm::boot(&self.image, &self.folder, name, options)
    }

    /// Switches it on and waits until the boot is good.
    #[must_use]
    pub fn boot_well(&self, name: &str) -> Vm {
        let mut vm = self.boot(name);
        vm.milestone("boot is good", BOOT_MAX);
        vm
    }
}
