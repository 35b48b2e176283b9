include $(sort $(wildcard $(BR2_EXTERNAL_STERNPOST_PATH)/package/*/*.mk))

# Of OpenSSL the root keeps libcrypto, for systemd-repart alone, which asks it nothing here: neither the speed of assembler nor words
# for errors are worth their 300 KB. Configure takes its options behind the name of the target.
LIBOPENSSL_TARGET_ARCH += no-asm no-err
