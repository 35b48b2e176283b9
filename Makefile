# The front door: each target is one line to the real tool.
CARGO  ?= cargo
FUZZ_S ?= 60
BUILD  := $(CARGO) build --release -p sternpost -p sternpost-load
LOAD   := target/release/sternpost-load

.PHONY: all demo demo-host test simulate simulate-scheduler hw-test crash-campaign check bench bench-connections bench-queue bench-recovery bench-scheduler bench-space bench-tuning bench-peer soak fuzz check-buildroot release-image image run clean

all: check test                 ## what a change must pass

demo:                           ## the appliance in QEMU, from the factory through a power cut: target/hw-tests/demo/report.json
	.ci/packages image && image/build && $(CARGO) run --quiet -p sternpost-hw-tests --bin appliance-demo

demo-host:                      ## the switch on this host while its processes are killed: target/demo/report.json
	.ci/packages && $(BUILD) && $(LOAD) demo

test:                           ## everything that CI runs
	.ci/test

simulate:                       ## histories of log and switch from random seeds, for a night SECONDS=36000; or one: SEED=17 [TRACE=1]
	$(CARGO) run --release --quiet -p sternpost-simulator --bin simulate -- \
	    $(if $(SEED),--seed $(SEED) $(if $(TRACE),--trace),--seconds $(or $(SECONDS),60)) $(if $(OVERFILL),--overfill)

simulate-scheduler:             ## QMGR's mind in virtual time, with plots: [SCENARIO=burst]; random worlds: SECONDS=60 or SEED=17 [TRACE=1]
	$(CARGO) run --release --quiet -p sternpost-simulator --bin simulate-scheduler -- --out target/simulate-scheduler \
	    $(if $(SCENARIO),workspace/simulator/scenarios/$(SCENARIO).toml $(if $(SEED),--scenario-seed $(SEED)), \
	    $(if $(SEED),--seed $(SEED) $(if $(TRACE),--trace),$(if $(SECONDS),--seconds $(SECONDS))))

hw-test:                        ## boots the image in QEMU for everything in hw-tests/; consoles in target/hw-tests/
	.ci/test packages build-image hw

crash-campaign:                 ## power cuts and failing flushes on this host, as root: the log on a device whose writes are logged
	.ci/packages crash && $(CARGO) build --release -p sternpost -p sternpost-hw-tests && target/release/crash-campaign

check:                          ## format, lints, documentation
	.ci/test format clippy docs image

bench:                          ## rate, CPU, latency, memory, queue: target/bench/report.json
	$(BUILD) && $(LOAD) bench

bench-connections:              ## 5,000 open connections, in the clear and inside TLS: target/bench/connections.json
	$(BUILD) && $(LOAD) bench-connections

bench-queue:                    ## the store alone, against its disk and against files: target/bench/queue.json
	$(BUILD) && $(LOAD) bench-queue

bench-recovery:                 ## the start of a switch on a million living messages: target/bench-recovery/report.json
	$(BUILD) && $(LOAD) bench-recovery

bench-scheduler:                ## QMGR's mind alone, up to a million Mlists over ten thousand peers: target/bench-scheduler
	$(BUILD) && $(LOAD) bench-scheduler

bench-space:                    ## write amplification by the share that lives, and a flash among streams: target/bench-space
	$(BUILD) && $(LOAD) bench-space

bench-tuning:                   ## what is found by itself against fixed settings; a flash behind a full queue: target/bench-tuning
	$(BUILD) && $(LOAD) bench-tuning

soak:                           ## SECONDS (3600) at full load while one message in a hundred waits: target/soak
	$(BUILD) && $(LOAD) soak --seconds $(or $(SECONDS),3600)

bench-peer:                     ## the same beside Postfix, as root: target/bench/peer.json
	.ci/packages && $(BUILD) && $(LOAD) bench-peer

fuzz:                           ## every parser for a minute (FUZZ_S seconds), with cargo-fuzz
	.ci/fuzz $(FUZZ_S)

image:                          ## the device's image of Debian packages: target/image
	.ci/packages image && image/build

run:                            ## boots it in QEMU: [BOOTSTRAP=FILE] [PORT=2525]
	.ci/packages image && image/run

check-buildroot:                ## the release's Buildroot tree without building it: BUILDROOT=DIR
	BUILDROOT="$(BUILDROOT)" buildroot/check

release-image:                  ## the image by Buildroot, in target/release-image: [BUILDROOT=DIR] [AIRGAP=WORK]
	BUILDROOT="$(BUILDROOT)" AIRGAP="$(AIRGAP)" buildroot/build

clean:                          ## all that was built
	$(CARGO) clean
