################################################################################
#
# Buildroot without a network: Debian's sources and tools in place of downloads
#
# Read before any package (BR2_PACKAGE_OVERRIDE_FILE), through the local.mk that airgap/prepare writes; STERNPOST_AIRGAP is
# the folder that it made. `override` makes a value stand against what the packages say later.
#
################################################################################

STERNPOST_AIRGAP_DIR := $(dir $(lastword $(MAKEFILE_LIST)))

#
# Host tools: the build machine has them. $(1): package in upper case, without HOST_; $(2): programs.
#
define sternpost-host-tool
override HOST_$(1)_OVERRIDE_SRCDIR := $(STERNPOST_AIRGAP)/empty
override HOST_$(1)_DEPENDENCIES :=
override HOST_$(1)_AUTORECONF := NO
override HOST_$(1)_CONFIGURE_CMDS := :
override HOST_$(1)_BUILD_CMDS := :
override HOST_$(1)_INSTALL_CMDS = mkdir -p $$(HOST_DIR)/bin $$(HOST_DIR)/sbin $$(HOST_DIR)/share/aclocal$(foreach tool,$(2), && ln -sf $(STERNPOST_AIRGAP)/host/$(tool) $$(HOST_DIR)/bin/$(tool))
$(foreach step,POST_RSYNC PRE_CONFIGURE POST_CONFIGURE PRE_BUILD POST_BUILD PRE_INSTALL POST_INSTALL,
override HOST_$(1)_$(step)_HOOKS :=)
endef

$(eval $(call sternpost-host-tool,AUTOCONF,autoconf autoheader autoreconf autom4te))
$(eval $(call sternpost-host-tool,AUTOMAKE,automake aclocal))
$(eval $(call sternpost-host-tool,CRYPTSETUP,veritysetup))
$(eval $(call sternpost-host-tool,DOSFSTOOLS,mkfs.vfat))
$(eval $(call sternpost-host-tool,E2FSPROGS,mkfs.ext4))
$(eval $(call sternpost-host-tool,ELFUTILS))
$(eval $(call sternpost-host-tool,FAKEROOT,fakeroot))
$(eval $(call sternpost-host-tool,GENIMAGE,genimage))
$(eval $(call sternpost-host-tool,GPERF,gperf))
$(eval $(call sternpost-host-tool,KMOD,kmod))
$(eval $(call sternpost-host-tool,LIBCAP))
$(eval $(call sternpost-host-tool,LIBTOOL,libtoolize))
$(eval $(call sternpost-host-tool,LIBXCRYPT))
$(eval $(call sternpost-host-tool,LZIP))
$(eval $(call sternpost-host-tool,M4,m4))
$(eval $(call sternpost-host-tool,MTOOLS,mcopy mformat mmd))
$(eval $(call sternpost-host-tool,NINJA,ninja))
$(eval $(call sternpost-host-tool,PATCHELF,patchelf))
$(eval $(call sternpost-host-tool,PYTHON_JINJA2))
$(eval $(call sternpost-host-tool,PYTHON3,python3))
$(eval $(call sternpost-host-tool,SQUASHFS,mksquashfs))
$(eval $(call sternpost-host-tool,SYSTEMD,systemctl))
$(eval $(call sternpost-host-tool,TAR,tar))
$(eval $(call sternpost-host-tool,TZDATA))
$(eval $(call sternpost-host-tool,UTIL_LINUX))
$(eval $(call sternpost-host-tool,ZIC))
$(eval $(call sternpost-host-tool,ZSTD,zstd))

# Meson goes through a translator, for Buildroot's options are those of a newer systemd; Python is there for the scripts that
# meson runs.
$(eval $(call sternpost-host-tool,MESON))
override HOST_MESON_DEPENDENCIES := host-ninja host-python3
override HOST_MESON_INSTALL_CMDS = mkdir -p $(HOST_DIR)/bin && \
	ln -sf $(STERNPOST_AIRGAP)/host/python3 $(HOST_DIR)/bin/python3 && \
	ln -sf $(STERNPOST_AIRGAP_DIR)meson-translated $(HOST_DIR)/bin/meson

# Buildroot's wrapper of pkg-config looks into the staging folder alone.
$(eval $(call sternpost-host-tool,PKGCONF,pkgconf))
override HOST_PKGCONF_POST_INSTALL_HOOKS := HOST_PKGCONF_INSTALL_WRAPPER HOST_PKGCONF_SHARED

#
# Sources of the target's packages. The patches of Buildroot are for other versions and are not applied.
#
EXPAT_OVERRIDE_SRCDIR = $(STERNPOST_AIRGAP)/sources/expat/expat
DBUS_OVERRIDE_SRCDIR = $(STERNPOST_AIRGAP)/sources/dbus
E2FSPROGS_OVERRIDE_SRCDIR = $(STERNPOST_AIRGAP)/sources/e2fsprogs
KMOD_OVERRIDE_SRCDIR = $(STERNPOST_AIRGAP)/sources/kmod
LIBCAP_OVERRIDE_SRCDIR = $(STERNPOST_AIRGAP)/sources/libcap2
LIBOPENSSL_OVERRIDE_SRCDIR = $(STERNPOST_AIRGAP)/sources/openssl
LIBSECCOMP_OVERRIDE_SRCDIR = $(STERNPOST_AIRGAP)/sources/libseccomp
LIBXCRYPT_OVERRIDE_SRCDIR = $(STERNPOST_AIRGAP)/sources/libxcrypt
LIBZLIB_OVERRIDE_SRCDIR = $(STERNPOST_AIRGAP)/sources/zlib
SYSTEMD_OVERRIDE_SRCDIR = $(STERNPOST_AIRGAP)/sources/systemd
UTIL_LINUX_OVERRIDE_SRCDIR = $(STERNPOST_AIRGAP)/sources/util-linux
UTIL_LINUX_LIBS_OVERRIDE_SRCDIR = $(STERNPOST_AIRGAP)/sources/util-linux

# Of systemd 252 alone: loader and stub are those of Debian.
SYSTEMD_CONF_OPTS += -Dgnu-efi=false -Dtranslations=false -Dxdg-autostart=false

# Repositories without a generated configure.
override EXPAT_AUTORECONF := YES
override KMOD_AUTORECONF := YES
override LIBSECCOMP_AUTORECONF := YES
override LIBXCRYPT_AUTORECONF := YES

# kmod's repository lacks what gtkdocize would bring; its documentation is not made.
define KMOD_WITHOUT_GTK_DOC
	printf 'EXTRA_DIST =\nCLEANFILES =\n' >$(@D)/libkmod/docs/gtk-doc.make
endef
KMOD_POST_RSYNC_HOOKS += KMOD_WITHOUT_GTK_DOC
override HOST_AUTOMAKE_POST_INSTALL_HOOKS := HOST_AUTOMAKE_GTK_DOC_M4_INSTALL HOST_AUTOMAKE_MAKE_ACLOCAL

# The others keep theirs; what Buildroot does to an unpacked tarball is done to the copy.
override UTIL_LINUX_AUTORECONF := NO
override UTIL_LINUX_LIBS_AUTORECONF := NO
UTIL_LINUX_POST_RSYNC_HOOKS += LIBTOOL_PATCH_HOOK UPDATE_CONFIG_HOOK
UTIL_LINUX_LIBS_POST_RSYNC_HOOKS += LIBTOOL_PATCH_HOOK UPDATE_CONFIG_HOOK
DBUS_POST_RSYNC_HOOKS += LIBTOOL_PATCH_HOOK UPDATE_CONFIG_HOOK
E2FSPROGS_POST_RSYNC_HOOKS += UPDATE_CONFIG_HOOK

# OpenSSL 3.0 does not know all the options of 3.5; systemd-repart needs its library alone, for SHA-256, HMAC and X.509.
STERNPOST_OPENSSL_WITHOUT = \
	afalgeng aria bf blake2 camellia cast chacha cmp cms comp ct des dsa dtls ec2m engine err gost idea legacy md4 mdc2 \
	module ocb ocsp poly1305 psk rc2 rc4 rc5 rmd160 scrypt seed siv sm2 sm3 sm4 srp srtp ssl3 tests ts weak-ssl-ciphers whirlpool
override define LIBOPENSSL_CONFIGURE_CMDS
	cd $(@D) && $(TARGET_CONFIGURE_ARGS) $(TARGET_CONFIGURE_OPTS) ./Configure $(LIBOPENSSL_TARGET_ARCH) \
		--prefix=/usr --openssldir=/etc/ssl threads shared $(addprefix no-,$(STERNPOST_OPENSSL_WITHOUT))
endef
override define LIBOPENSSL_BUILD_CMDS
	$(TARGET_MAKE_ENV) $(MAKE) -C $(@D) build_libs
endef
override define LIBOPENSSL_INSTALL_STAGING_CMDS
	$(TARGET_MAKE_ENV) $(MAKE) -C $(@D) DESTDIR=$(STAGING_DIR) install_dev
endef
override define LIBOPENSSL_INSTALL_TARGET_CMDS
	$(TARGET_MAKE_ENV) $(MAKE) -C $(@D) DESTDIR=$(TARGET_DIR) install_runtime_libs
endef
override LIBOPENSSL_POST_INSTALL_STAGING_HOOKS :=
override LIBOPENSSL_POST_INSTALL_TARGET_HOOKS :=

# The switch thinks in UTC; the image needs no table of time zones.
override TZDATA_OVERRIDE_SRCDIR := $(STERNPOST_AIRGAP)/empty
override TZDATA_DEPENDENCIES :=
override TZDATA_INSTALL_TARGET_CMDS := :

# nft and its libraries as Debian compiled them (mirror.list says why).
define sternpost-binary
override $(1)_OVERRIDE_SRCDIR := $(STERNPOST_AIRGAP)/empty
override $(1)_DEPENDENCIES :=
override $(1)_CONFIGURE_CMDS := :
override $(1)_BUILD_CMDS := :
override $(1)_INSTALL_STAGING := NO
override $(1)_INSTALL_TARGET_CMDS := :
$(foreach step,POST_RSYNC PRE_CONFIGURE POST_CONFIGURE PRE_BUILD POST_BUILD PRE_INSTALL_TARGET POST_INSTALL_TARGET,
override $(1)_$(step)_HOOKS :=)
endef

$(eval $(call sternpost-binary,LIBMNL))
$(eval $(call sternpost-binary,LIBNFTNL))
$(eval $(call sternpost-binary,NFTABLES))
override define NFTABLES_INSTALL_TARGET_CMDS
	mkdir -p $(TARGET_DIR)/usr/sbin $(TARGET_DIR)/usr/lib
	$(INSTALL) -m 0755 $(STERNPOST_AIRGAP)/nft/usr/sbin/nft $(TARGET_DIR)/usr/sbin/nft
	find $(STERNPOST_AIRGAP)/nft/lib $(STERNPOST_AIRGAP)/nft/usr/lib -name 'lib*.so.*' \
		-exec cp -P -t $(TARGET_DIR)/usr/lib {} +
endef
