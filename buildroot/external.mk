include $(sort $(wildcard $(BR2_EXTERNAL_STERNPOST_PATH)/package/*/*.mk))
