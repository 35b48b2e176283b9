################################################################################
#
# sternpost
#
################################################################################

STERNPOST_VERSION = 1
STERNPOST_SITE = $(realpath $(BR2_EXTERNAL_STERNPOST_PATH)/..)
STERNPOST_SITE_METHOD = local
STERNPOST_LICENSE_FILES = LICENSE
STERNPOST_OVERRIDE_SRCDIR_RSYNC_EXCLUSIONS = --exclude /target

STERNPOST_TRIPLE = x86_64-unknown-linux-gnu
STERNPOST_CARGO_CONFIG = $(call qstrip,$(BR2_PACKAGE_STERNPOST_CARGO_CONFIG))

# Cargo and rustc are the build machine's: Buildroot's own are older than rust-toolchain.toml asks for. The linker goes
# into RUSTFLAGS, which hold for the target alone: build scripts run here, with this machine's compiler. No path of the
# build reaches the program.
STERNPOST_ENV = \
	PATH=$(BR_PATH) \
	CARGO_TARGET_DIR=$(@D)/target \
	CC_x86_64_unknown_linux_gnu="$(TARGET_CC)" \
	AR_x86_64_unknown_linux_gnu="$(TARGET_AR)" \
	CFLAGS_x86_64_unknown_linux_gnu="-O2 -ffile-prefix-map=$(@D)=/sternpost" \
	RUSTFLAGS="-C linker=$(TARGET_CC) -C target-feature=+crt-static \
		--remap-path-prefix=$(@D)=/sternpost \
		--remap-path-prefix=$${CARGO_HOME:-$$HOME/.cargo}=/cargo \
		$(patsubst %,--remap-path-prefix=%=/cargo,$(STERNPOST_CRATES))"

ifeq ($(STERNPOST_CARGO_CONFIG),)
define STERNPOST_CONFIGURE_CMDS
	cd $(@D) && $(STERNPOST_ENV) cargo fetch --locked --target $(STERNPOST_TRIPLE)
endef
else
STERNPOST_CARGO_OPTS = --config $(STERNPOST_CARGO_CONFIG)
# The folder with the crates, as that file names it.
STERNPOST_CRATES = $(shell sed -n 's/^directory = "\(.*\)"$$/\1/p' $(STERNPOST_CARGO_CONFIG))
endif

define STERNPOST_BUILD_CMDS
	cd $(@D) && $(STERNPOST_ENV) cargo $(STERNPOST_CARGO_OPTS) build --locked --offline \
		--release --target $(STERNPOST_TRIPLE) --package sternpost
endef

define STERNPOST_INSTALL_TARGET_CMDS
	$(INSTALL) -D -m 0755 $(@D)/target/$(STERNPOST_TRIPLE)/release/sternpost \
		$(TARGET_DIR)/usr/bin/sternpost
endef

$(eval $(generic-package))
