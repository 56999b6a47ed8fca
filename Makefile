# scissord - `make help` lists the targets.
#
# Libraries are looked up with pkg-config when a rule runs, not when this file is read, so that `make deps` and what
# needs it can be named in one command.

# All cores are used unless -j says otherwise.
ifeq ($(MAKELEVEL),0)
MAKEFLAGS += -j$(shell nproc)
endif

VERSION := 0.1.0
BUILD ?= build
PREFIX ?= /usr/local
ifeq ($(origin CC),default)
CC := gcc
endif
SANITIZE ?=
WERROR ?=
MODEL_DIR ?= $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/scissord
MODEL := $(MODEL_DIR)/SmolLM2-135M-Instruct.Q4_1.gguf

ifeq ($(V),)
Q := @
say = @printf '  %-7s %s\n' $(1) $(patsubst $(BUILD)/%,%,$@)
else
Q :=
say = @:
endif

PKG = $$(pkg-config --cflags $(1))
LIBS = $$(pkg-config --libs $(1))

OPT ?= -O2 -g
CFLAGS_ALL = -std=gnu11 $(OPT) -Wall -Wextra -Wshadow -Wpointer-arith -Wstrict-prototypes -Wmissing-prototypes \
	$(if $(WERROR),-Werror) -fno-math-errno -fvisibility=hidden -fPIC -pthread -D_GNU_SOURCE -DSCISSOR_VERSION='"$(VERSION)"' \
	-Iproto -Ikernels -I. $(if $(SANITIZE),-fsanitize=$(SANITIZE) -fno-sanitize-recover=all -fno-omit-frame-pointer) $(CFLAGS)
LDFLAGS_ALL = -pthread $(if $(SANITIZE),-fsanitize=$(SANITIZE)) $(LDFLAGS)

# folder -> extra flags of its objects
$(BUILD)/daemon/%.o: EXTRA = $(call PKG,libuv nanomsg inih libsystemd)
$(BUILD)/daemon/replay/%.o: EXTRA = -Idaemon/broker
$(BUILD)/client/%.o: EXTRA = $(call PKG,nanomsg)
$(BUILD)/client/ctl/%.o: EXTRA = $(call PKG,nanomsg jansson ncursesw libmicrohttpd) -Iclient
$(BUILD)/client/llama/%.o: EXTRA = $(call PKG,libpcre2-8 openblas) -Iclient
$(BUILD)/client/eval/%.o: EXTRA = -Iclient
$(BUILD)/tests/%.o: EXTRA = $(call PKG,cmocka nanomsg libuv libpcre2-8 openblas jansson) -Iclient -Idaemon -Idaemon/broker -Itests
$(BUILD)/tests/bench/%.o: EXTRA = $(call PKG,nanomsg libuv jansson) -Iclient -Idaemon -Idaemon/broker -Itests
$(BUILD)/kernels/quant.o: ISA = -O3 -ffp-contract=off
# Without where variables are at each instruction, which takes the compiler longer than all else.
%/quant.o: ISA = -ffp-contract=off
%_avx2.o: ISA = -g1 -mavx2 -mfma -mf16c
%_vnni.o: ISA = -g1 -mavx512f -mavx512bw -mavx512vl -mavx512dq -mavx512vnni -mavx2 -mfma -mf16c
%_avx512.o: ISA = -g1 -mavx512f -mavx512bw -mavx512vl -mavx512dq -mavx2 -mfma -mf16c

obj = $(patsubst %.c,$(BUILD)/%.o,$(sort $(1)))
PROTO_O   := $(call obj,$(wildcard proto/*.c))
KERNELS_O := $(call obj,$(wildcard kernels/*.c kernels/host/*.c kernels/cuda/*.c))
LIB_O     := $(call obj,$(wildcard client/*.c)) $(PROTO_O) $(KERNELS_O)
BROKER_O  := $(call obj,$(wildcard daemon/broker/*.c daemon/broker/policy/*.c))
DAEMON_O  := $(call obj,$(wildcard daemon/*.c))
REPLAY_O  := $(call obj,$(wildcard daemon/replay/*.c))
CTL_O     := $(call obj,$(wildcard client/ctl/*.c))
LLAMA_O   := $(call obj,$(wildcard client/llama/*.c))
EVAL_O    := $(call obj,$(wildcard client/eval/*.c))
HARNESS_O := $(call obj,$(wildcard tests/*.c))
SIMLIB_O  := $(call obj,$(filter-out tests/sim/test_%,$(wildcard tests/sim/*.c)))
UNIT_T    := $(patsubst tests/%.c,$(BUILD)/tests/%,$(sort $(wildcard tests/unit/test_*.c)))
SIM_T     := $(patsubst tests/%.c,$(BUILD)/tests/%,$(sort $(wildcard tests/sim/test_*.c)))
# The kernels of kernels/cuda/, compiled as C++ and run by an emulator (tests/emulation/emulator.h) that watches every
# access, or, five times as fast, none.
EMULATOR_O := $(call obj,$(filter-out tests/emulation/test_%,$(wildcard tests/emulation/*.c))) \
	$(patsubst %,$(BUILD)/emulated/%.o,$(sort $(wildcard kernels/cuda/*.cu)))
UNWATCHED_O := $(EMULATOR_O:$(BUILD)/emulated/%=$(BUILD)/unwatched/%)
WRONG_O    := $(BUILD)/emulated/tests/emulation/wrong.cu.o
EMULATED_T := $(patsubst tests/%.c,$(BUILD)/tests/%,$(sort $(wildcard tests/emulation/test_*.c)))
SYSTEM_T  := $(patsubst tests/%.c,$(BUILD)/tests/%,$(sort $(wildcard tests/system/test_*.c)))
GPU_KERNELS_T := $(BUILD)/tests/gpu/test_cuda_attend $(BUILD)/tests/gpu/test_cuda_move
GPU_T     := $(GPU_KERNELS_T) $(BUILD)/tests/gpu/test_processes $(BUILD)/tests/gpu/bench
BENCHES   := $(patsubst tests/%.c,$(BUILD)/tests/%,$(sort $(wildcard tests/bench/bench_*.c)))
PAGES     := $(addprefix $(BUILD)/man/,scissord.8 scissord.conf.5 scissorctl.1 scissor-run.1 scissor-eval.1 scissor-replay.1 libscissor.3)
PROGRAMS  := $(BUILD)/scissord $(BUILD)/scissorctl $(BUILD)/scissor-run $(BUILD)/scissor-eval $(BUILD)/scissor-replay
LIBRARIES := $(BUILD)/libscissor.a $(BUILD)/libscissor.so

# `make deps check` installs before it builds, however many jobs there are.
ifneq ($(filter deps,$(MAKECMDGOALS)),)
$(PROTO_O) $(KERNELS_O) $(LIB_O) $(BROKER_O) $(DAEMON_O) $(CTL_O) $(LLAMA_O) $(EVAL_O) $(REPLAY_O) $(HARNESS_O) $(SIMLIB_O): | deps
$(addsuffix .o,$(UNIT_T) $(SIM_T) $(SYSTEM_T) $(BENCHES)) $(BUILD)/kernels/cuda/image.fatbin model: | deps
$(call obj,$(wildcard tests/emulation/*.c tests/fakecuda/*.c tests/gpu/*.c)) $(filter %.cu.o,$(EMULATOR_O) $(UNWATCHED_O)) $(WRONG_O): | deps
endif

.DEFAULT_GOAL := all
.DELETE_ON_ERROR:
.PHONY: all
all: $(PROGRAMS) $(LIBRARIES) $(PAGES) ## build everything but the tests

$(BUILD)/%.o: %.c
	$(call say,CC)
	@mkdir -p $(@D)
	$(Q)$(CC) $(CFLAGS_ALL) $(ISA) -MMD -MP $(EXTRA) -c $< -o $@

# ---------- the kernels of the CUDA backend ----------

# One fat binary in every program, if there is an nvcc: NVCC= builds without, and NVCC=emulated builds programs for the
# tests' CUDA driver alone, which has the kernels itself and wants their names. CUDA_ARCHS is "75 90" and the like, or
# all; PTX of the newest is for devices that are newer still. A build remembers both for the next make, as `make
# install` is often run by another user.
-include $(BUILD)/kernels/cuda/choice.mk
NVCC ?= $(or $(shell command -v nvcc 2>/dev/null),$(wildcard /usr/local/cuda/bin/nvcc))
NVCC := $(NVCC)
CUDA_ARCHS ?= 75 90
# To be checked on, this machine's devices have code of their own, as far as the compiler knows them.
ifneq ($(filter gpu-check,$(MAKECMDGOALS)),)
CUDA_ARCHS := $(CUDA_ARCHS) $(filter $(patsubst compute_%,%,$(shell $(NVCC) --list-gpu-arch 2>/dev/null)),\
	$(shell nvidia-smi --query-gpu=compute_cap --format=csv,noheader 2>/dev/null | tr -d .))
endif
CUDA_LIST := $(shell printf '%s\n' $(if $(filter all,$(CUDA_ARCHS)),75 80 86 89 90 100 120,$(CUDA_ARCHS)) | sort -nu)
CUDA_NEWEST := $(lastword $(CUDA_LIST))
NVCC_FLAGS := -Ikernels $(if $(WERROR),-Werror all-warnings) --threads 0 \
	$(foreach a,$(CUDA_LIST),-gencode arch=compute_$a,code=sm_$a) -gencode arch=compute_$(CUDA_NEWEST),code=compute_$(CUDA_NEWEST)

# Written when what it says is something else than before, and then all that depends on it is built anew.
IMAGE := $(BUILD)/kernels/cuda/image
$(IMAGE).cu: FORCE
	@mkdir -p $(@D)
	@text=$$(echo '/* $(CUDA_LIST), by $(or $(NVCC),nobody) */'; \
		printf '#include "%s"\n' $(patsubst kernels/%,%,$(sort $(wildcard kernels/cuda/*.cu)))); \
	[ "$$text" = "$$(cat $@ 2>/dev/null)" ] || { \
		printf '%s\n' $(if $(NVCC),'NVCC ?= $(NVCC)') 'CUDA_ARCHS ?= $(CUDA_ARCHS)' >$(@D)/choice.mk && \
		printf '%s\n' "$$text" >$@; }
ifeq ($(NVCC),emulated)
$(IMAGE).fatbin: $(IMAGE).cu kernels/cuda/launch.h
	$(call say,GEN)
	$(Q){ echo scissord-emulated; sed -n 's/^ *X(\(scissor_[a-z0-9_]*\),.*/\1/p' kernels/cuda/launch.h; } >$@
else
$(IMAGE).fatbin: $(IMAGE).cu
	$(call say,NVCC)
	$(Q)$(NVCC) -fatbin $(NVCC_FLAGS) -MMD -MP -MF $@.d -MT $@ $< -o $@
endif
$(IMAGE).o: $(IMAGE).cu
ifneq ($(NVCC),)
$(IMAGE).o: $(IMAGE).fatbin
$(IMAGE).o: EXTRA = -DCUDA_IMAGE='"$(IMAGE).fatbin"' \
	-DCUDA_IMAGE_ARCHS='"$(if $(filter emulated,$(NVCC)),for the driver of the tests alone,$(addprefix sm_,$(CUDA_LIST)), PTX compute_$(CUDA_NEWEST))"' \
	-DCUDA_IMAGE_NEWEST=$(if $(filter emulated,$(NVCC)),90,$(CUDA_NEWEST)) \
	-DCUDA_IMAGE_VERSION=$(if $(filter emulated,$(NVCC)),13000,$$($(NVCC) --version | sed -nE 's/.*release ([0-9]+)\.([0-9]).*/\1*1000+\2*10/p'))
endif
.PHONY: FORCE
FORCE:

# ---------- programs and libraries ----------

$(BUILD)/scissord: $(DAEMON_O) $(BROKER_O) $(PROTO_O) $(KERNELS_O)
	$(call say,LINK)
	$(Q)$(CC) $^ -o $@ $(LDFLAGS_ALL) $(call LIBS,libuv nanomsg inih libsystemd) -lm

$(BUILD)/scissorctl: $(CTL_O) $(PROTO_O) $(BUILD)/kernels/dtype.o
	$(call say,LINK)
	$(Q)$(CC) $^ -o $@ $(LDFLAGS_ALL) $(call LIBS,nanomsg jansson ncursesw libmicrohttpd) -lm

$(BUILD)/scissor-run: $(LLAMA_O) $(BUILD)/libscissor.a
	$(call say,LINK)
	$(Q)$(CC) $^ -o $@ $(LDFLAGS_ALL) $(call LIBS,nanomsg libpcre2-8 openblas) -lm

$(BUILD)/scissor-eval: $(EVAL_O) $(filter-out $(BUILD)/client/llama/main.o,$(LLAMA_O)) \
		$(call obj,$(addprefix client/ctl/,link.c place.c fail.c)) $(BUILD)/libscissor.a
	$(call say,LINK)
	$(Q)$(CC) $^ -o $@ $(LDFLAGS_ALL) $(call LIBS,nanomsg libpcre2-8 openblas) -lm

# Of the broker, what decides which rows go.
$(BUILD)/scissor-replay: $(REPLAY_O) $(PROTO_O) \
	$(call obj,$(addprefix daemon/broker/,history.c policy.c placement.c) $(wildcard daemon/broker/policy/*.c))
	$(call say,LINK)
	$(Q)$(CC) $^ -o $@ $(LDFLAGS_ALL) -lm

$(BUILD)/libscissor.a: $(LIB_O)
	$(call say,AR)
	$(Q)rm -f $@ && ar rcs $@ $^

$(BUILD)/libscissor.so: $(LIB_O)
	$(call say,LINK)
	$(Q)$(CC) -shared -Wl,-soname,libscissor.so.0 -Wl,--no-undefined $^ -o $@ $(LDFLAGS_ALL) $(call LIBS,nanomsg) -lm
	$(Q)ln -sf $(@F) $(BUILD)/libscissor.so.0

# ---------- manual pages ----------

# What stands in a table of the sources goes into the pages from there: @NAME@ on a line of its own is replaced.
insert = sed -e '/^@$(1)@$$/{r $(2)' -e 'd}'

# Roff must take nothing in a program for its own.
LITERAL := sed 's/\\/\\e/g; s/^\./\\\&./'

$(BUILD)/man/scissord.8: daemon/scissord.8.in $(BUILD)/scissord
	$(call say,GEN)
	@mkdir -p $(@D)
	$(Q)$(BUILD)/scissord --man-options 8 >$@.options
	$(Q)$(BUILD)/scissord --man-options p >$@.policies
	$(Q)$(call insert,OPTIONS,$@.options) -e '/^@POLICIES@$$/{r $@.policies' -e 'd}' $< >$@

$(BUILD)/man/scissord.conf.5: daemon/scissord.conf.5.in $(BUILD)/scissord
	$(call say,GEN)
	@mkdir -p $(@D)
	$(Q)$(BUILD)/scissord --man-options 5 >$@.options
	$(Q)$(call insert,OPTIONS,$@.options) $< >$@

$(BUILD)/man/scissorctl.1: client/ctl/scissorctl.1.in client/ctl/help.awk $(BUILD)/scissorctl
	$(call say,GEN)
	@mkdir -p $(@D)
	$(Q)$(BUILD)/scissorctl help | sed -n 's/^  \([a-z][a-z]*\) .*/\1/p' | xargs -n1 $(BUILD)/scissorctl help >$@.help
	$(Q)awk -v part=commands -f client/ctl/help.awk $@.help >$@.commands
	$(Q)awk -v part=options -f client/ctl/help.awk $@.help >$@.options
	$(Q)$(call insert,COMMANDS,$@.commands) -e '/^@OPTIONS@$$/{r $@.options' -e 'd}' $< >$@

$(BUILD)/man/scissor-run.1: client/llama/scissor-run.1.in
$(BUILD)/man/scissor-eval.1: client/eval/scissor-eval.1.in
$(BUILD)/man/scissor-replay.1: daemon/replay/scissor-replay.1.in
$(addprefix $(BUILD)/man/,scissor-run.1 scissor-eval.1 scissor-replay.1): $(BUILD)/man/%.1: client/llama/options.awk $(BUILD)/%
	$(call say,GEN)
	@mkdir -p $(@D)
	$(Q)$(BUILD)/$* --help | awk -f client/llama/options.awk >$@.options
	$(Q)$(call insert,OPTIONS,$@.options) $(filter %.in,$^) >$@

$(BUILD)/man/libscissor.3: client/libscissor.3.in proto/scissor_error.h $(BUILD)/tests/readme_example.c
	$(call say,GEN)
	@mkdir -p $(@D)
	$(Q)$(LITERAL) $(BUILD)/tests/readme_example.c >$@.example
	$(Q)awk -f client/errors.awk proto/scissor_error.h >$@.errors
	$(Q)$(call insert,EXAMPLE,$@.example) -e '/^@ERRORS@$$/{r $@.errors' -e 'd}' $< >$@

# ---------- tests ----------

$(UNIT_T) $(SIM_T): $(BUILD)/tests/%: $(BUILD)/tests/%.o $(HARNESS_O) $(SIMLIB_O) $(LIB_O) $(BROKER_O) $(filter-out $(BUILD)/client/llama/main.o,$(LLAMA_O)) $(filter-out $(BUILD)/client/eval/main.o,$(EVAL_O)) $(filter-out $(BUILD)/daemon/main.o,$(DAEMON_O)) $(filter-out $(BUILD)/daemon/replay/main.o,$(REPLAY_O)) $(filter-out $(BUILD)/client/ctl/main.o,$(CTL_O))
	$(call say,LINK)
	$(Q)$(CC) $^ -o $@ $(LDFLAGS_ALL) $(call LIBS,cmocka nanomsg libuv libpcre2-8 openblas jansson inih ncursesw libmicrohttpd libsystemd) -lm
$(SYSTEM_T): $(BUILD)/tests/%: $(BUILD)/tests/%.o $(HARNESS_O) $(LIB_O)
	$(call say,LINK)
	$(Q)$(CC) $^ -o $@ $(LDFLAGS_ALL) $(call LIBS,cmocka nanomsg jansson) -lm
# What stands for NVIDIA's driver in the tests, found there by LD_LIBRARY_PATH.
FAKECUDA := $(addprefix $(BUILD)/tests/fakecuda/,libcuda.so.1 unwatched/libcuda.so.1)
$(firstword $(FAKECUDA)): $(EMULATOR_O)
$(lastword $(FAKECUDA)): $(UNWATCHED_O)
$(FAKECUDA): $(call obj,$(wildcard tests/fakecuda/*.c)) $(BUILD)/kernels/dtype.o
	@mkdir -p $(@D)
	$(call say,LINK)
	$(Q)$(CC) -shared -Wl,-soname,$(@F) $^ -o $@ $(LDFLAGS_ALL) -lm
$(BENCHES): $(BUILD)/tests/%: $(BUILD)/tests/%.o $(HARNESS_O) $(LIB_O) $(BROKER_O)
	$(call say,LINK)
	$(Q)$(CC) $^ -o $@ $(LDFLAGS_ALL) $(call LIBS,cmocka nanomsg jansson) -lm

# The compiler's calls before each access to memory are answered by the emulator, so nothing here has a sanitizer: it
# changes stacks, too.
CXX ?= g++
EMULATE = $(CXX) -x c++ -std=c++17 -g -fno-exceptions -fno-rtti -fno-math-errno -ffp-contract=off -fvisibility=hidden \
	-Wall -Wextra -Wno-unknown-pragmas $(if $(WERROR),-Werror) -fPIC -include tests/emulation/device.h \
	-Itests/emulation/include -Ikernels -MMD -MP -c $< -o $@
$(BUILD)/emulated/%.cu.o: %.cu
	$(call say,EMU)
	@mkdir -p $(@D)
	$(Q)$(EMULATE) -O1 -fsanitize=thread
$(BUILD)/unwatched/%.cu.o: %.cu
	$(call say,EMU)
	@mkdir -p $(@D)
	$(Q)$(EMULATE) -O2 -DEMULATOR_UNWATCHED
$(call obj,$(filter-out tests/emulation/test_%,$(wildcard tests/emulation/*.c))): override SANITIZE :=
$(EMULATED_T): $(BUILD)/tests/%: $(BUILD)/tests/%.o $(EMULATOR_O) $(WRONG_O) $(KERNELS_O) $(PROTO_O)
	$(call say,LINK)
	$(Q)$(CC) $^ -o $@ $(LDFLAGS_ALL) $(call LIBS,cmocka) -lm

# The C program in README.md, as it stands there.
EXAMPLE := $(BUILD)/tests/readme_example
$(EXAMPLE).c: README.md
	@mkdir -p $(@D)
	$(Q)awk '/^```c$$/ {inside = 1; next} /^```/ {inside = 0} inside' $< >$@
$(EXAMPLE): $(EXAMPLE).c $(BUILD)/libscissor.a
	$(call say,LINK)
	$(Q)$(CC) $(CFLAGS_ALL) -Iclient $^ -o $@ $(LDFLAGS_ALL) $(call LIBS,nanomsg) -lm

.PHONY: tests
tests: $(UNIT_T) $(SIM_T) $(EMULATED_T) $(SYSTEM_T) $(GPU_T) $(EXAMPLE) $(FAKECUDA) ## build the tests

.PHONY: check
check: all tests ## build and run every test
	$(Q)$(MAKE) --no-print-directory model
	$(Q)BUILD=$(BUILD) MODEL=$(MODEL) tests/run.sh $(UNIT_T) $(SIM_T) $(EMULATED_T) $(SYSTEM_T)

# Of the tests for a machine with a GPU, those of the kernels are the ones that run in the emulator.
$(GPU_KERNELS_T): $(BUILD)/tests/gpu/%: $(BUILD)/tests/emulation/%.o $(BUILD)/tests/gpu/on_device.o $(KERNELS_O) $(PROTO_O)
	$(call say,LINK)
	$(Q)$(CC) $^ -o $@ $(LDFLAGS_ALL) $(call LIBS,cmocka) -lm
$(BUILD)/tests/gpu/bench: $(BUILD)/tests/gpu/bench_attention.o
$(BUILD)/tests/gpu/test_processes $(BUILD)/tests/gpu/bench: %: %.o $(HARNESS_O) $(LIB_O)
	$(call say,LINK)
	$(Q)$(CC) $^ -o $@ $(LDFLAGS_ALL) $(call LIBS,cmocka nanomsg jansson) -lm

# Of the tests above, those of the CUDA backend; and what a GPU or a compiler for one is wanted for: the scripts say what.
CUDA_T    := $(EMULATED_T) $(filter $(BUILD)/tests/unit/test_cuda_% $(BUILD)/tests/system/test_cuda_%,$(UNIT_T) $(SYSTEM_T))
KERNELS_T := $(addprefix $(CURDIR)/tests/gpu/,compiled.sh clang.sh fake_check.sh)
KERNELS_P := all $(GPU_T) $(FAKECUDA) $(BUILD)/tests/gpu/launches \
	$(addprefix $(BUILD)/tests/system/test_,cuda_work attach session cuda_daemon)
RUN_CUDA   = $(Q)BUILD=$(BUILD) MODEL=$(MODEL) CUDA_ARCHS="$(CUDA_ARCHS)" tests/run.sh
# Tests with sessions, once more with their daemons on the device of the tests' CUDA driver.
DEVICE_T  := $(addprefix $(BUILD)/tests/system/test_,session daemon attach attack budget death front readme demo ctl \
	doctor metrics top flood watchdog trace restart)
GPU_SYSTEM_T := $(DEVICE_T) $(addprefix $(BUILD)/tests/system/test_cuda_,session daemon)
.PHONY: check-cuda check-device check-kernels gpu-check
check-cuda: ## the CUDA backend without a GPU: its part of check, check-device and check-kernels
check-device: ## sessions of real daemons and clients on a CUDA driver without a GPU
ifneq ($(NVCC),)
check-cuda: $(CUDA_T) $(DEVICE_T) $(KERNELS_P)
	$(RUN_CUDA) $(CUDA_T) $(KERNELS_T)
	$(Q)$(MAKE) --no-print-directory check-device
check-device: all $(DEVICE_T) $(EXAMPLE) $(FAKECUDA)
	$(Q)$(MAKE) --no-print-directory model
	$(Q)SCISSOR_TEST_DEVICE=cuda BUILD=$(BUILD) MODEL=$(MODEL) tests/run.sh $(DEVICE_T)
else
# Programs that were built without nvcc have no kernels to launch.
check-cuda check-device:
	$(Q)$(MAKE) --no-print-directory NVCC=emulated BUILD=$(BUILD)/emulated-driver $@
endif
check-kernels: $(KERNELS_P) ## the kernels before nvcc (CUDA_ARCHS="75 90", or all) and clang, and gpu-check without a GPU
	$(RUN_CUDA) $(KERNELS_T)
gpu-check: $(KERNELS_P) $(GPU_SYSTEM_T) ## on a machine with a GPU: tests and benchmark of the CUDA backend
	$(Q)BUILD=$(BUILD) MODEL=$(MODEL) tests/gpu/check.sh $(GPU_SYSTEM_T:$(BUILD)/tests/%=%)
$(BUILD)/tests/gpu/launches: $(BUILD)/tests/gpu/launches.o
	$(call say,LINK)
	$(Q)$(CC) $^ -o $@ $(LDFLAGS_ALL)

.PHONY: bench
bench: all $(BENCHES) ## print timings as ratios to something measured in the same run
	$(Q)$(MAKE) --no-print-directory model
	$(Q)for b in $(BENCHES); do BUILD=$(BUILD) MODEL=$(MODEL) $$b || exit 1; done

.PHONY: demo
demo: all model ## three model processes share one small pool
	$(Q)BUILD=$(BUILD) MODEL=$(MODEL) tests/demo.sh

.PHONY: eval eval-quick eval-passkey eval-persistence
eval: all model ## compare policies and budgets over the texts in TEXTS= (an hour or more, says how long)
	$(Q)BUILD=$(BUILD) MODEL=$(MODEL) TEXTS=$(TEXTS) tests/eval.sh
eval-quick: all model ## the same over two texts, 4,096 tokens of each: some minutes
	$(Q)BUILD=$(BUILD) MODEL=$(MODEL) TEXTS=$(TEXTS) tests/eval.sh quick
eval-passkey: all model ## count who still knows a number hidden in one of two texts
	$(Q)BUILD=$(BUILD) MODEL=$(MODEL) TEXTS=$(TEXTS) tests/eval.sh passkey
eval-persistence: all model ## show for each layer whether attention stays with the rows it looked at, of one text
	$(Q)BUILD=$(BUILD) MODEL=$(MODEL) TEXTS=$(TEXTS) tests/eval_persistence.sh

.PHONY: model
model: ## fetch the test model into the cache directory (about 90 MB, once)
	$(Q)tests/fetch-model.sh $(MODEL)

# ---------- housekeeping ----------

.PHONY: deps
deps: ## install the Debian packages in deps.txt (root or sudo); quick when nothing is missing
	$(Q)tests/deps.sh

.PHONY: format style
format: ## rewrite the sources with clang-format
	clang-format -i $$(git ls-files -co --exclude-standard '*.c' '*.h' '*.cu' '*.cuh')
style: ## fail if a source is not formatted or breaks the layers
	$(Q)tests/style.sh

# ---------- installation ----------

# Where things go, below DESTDIR. systemd looks below /usr/local/lib, too. /etc is not below PREFIX: scissord reads
# /etc/scissord.conf wherever it is.
BINDIR      ?= $(PREFIX)/bin
LIBDIR      ?= $(PREFIX)/lib
INCLUDEDIR  ?= $(PREFIX)/include
DATADIR     ?= $(PREFIX)/share
UNITDIR     ?= $(PREFIX)/lib/systemd/system
SYSUSERSDIR ?= $(PREFIX)/lib/sysusers.d
TMPFILESDIR ?= $(PREFIX)/lib/tmpfiles.d
CONFDIR     := $(DATADIR)/scissord
CONF        := /etc/scissord.conf

# What `install` puts below DESTDIR and `uninstall` takes away; of the configuration, systemd/conf.sh decides.
INSTALLED := $(addprefix $(BINDIR)/,$(notdir $(PROGRAMS))) $(addprefix $(INCLUDEDIR)/,scissor.h scissor_error.h) \
	$(addprefix $(LIBDIR)/,libscissor.a libscissor.so.0 libscissor.so pkgconfig/libscissor.pc) \
	$(foreach page,$(PAGES),$(DATADIR)/man/man$(patsubst .%,%,$(suffix $(page)))/$(notdir $(page))) \
	$(DATADIR)/bash-completion/completions/scissorctl $(addprefix $(CONFDIR)/,scissord.conf scissord-gpu.conf) \
	$(addprefix $(UNITDIR)/,scissord.service scissord.socket scissord-metrics.service scissord-metrics.socket) \
	$(SYSUSERSDIR)/scissord.conf $(TMPFILESDIR)/scissord.conf
FOLDERS := $(sort $(dir $(INSTALLED)) $(dir $(CONF)))

$(BUILD)/scissord.conf: $(BUILD)/scissord
	$(call say,GEN)
	$(Q)$(BUILD)/scissord --man-options c >$@

.PHONY: install uninstall
install: all $(BUILD)/scissord.conf ## install into PREFIX (/usr/local), below DESTDIR if that is set
	install -d $(addprefix $(DESTDIR),$(FOLDERS))
	install $(PROGRAMS) $(DESTDIR)$(BINDIR)
	install -m 644 client/scissor.h proto/scissor_error.h $(DESTDIR)$(INCLUDEDIR)
	install -m 644 $(BUILD)/libscissor.a $(DESTDIR)$(LIBDIR)
	install -m 644 $(BUILD)/libscissor.so $(DESTDIR)$(LIBDIR)/libscissor.so.0
	ln -sf libscissor.so.0 $(DESTDIR)$(LIBDIR)/libscissor.so
	sed -e 's|@PREFIX@|$(PREFIX)|' -e 's|@LIBDIR@|$(LIBDIR:$(PREFIX)/%=$${prefix}/%)|' \
		-e 's|@INCLUDEDIR@|$(INCLUDEDIR:$(PREFIX)/%=$${prefix}/%)|' -e 's|@VERSION@|$(VERSION)|' \
		client/libscissor.pc.in >$(DESTDIR)$(LIBDIR)/pkgconfig/libscissor.pc
	chmod 644 $(DESTDIR)$(LIBDIR)/pkgconfig/libscissor.pc
	install -m 644 client/ctl/scissorctl.bash $(DESTDIR)$(DATADIR)/bash-completion/completions/scissorctl
	for page in $(PAGES); do install -m 644 $$page $(DESTDIR)$(DATADIR)/man/man$${page##*.} || exit 1; done
	for unit in scissord.service scissord-metrics.service; do \
		sed 's|@BINDIR@|$(BINDIR)|' systemd/$$unit.in >$(DESTDIR)$(UNITDIR)/$$unit && \
		chmod 644 $(DESTDIR)$(UNITDIR)/$$unit || exit 1; done
	install -m 644 systemd/scissord.socket systemd/scissord-metrics.socket $(DESTDIR)$(UNITDIR)
	install -m 644 systemd/scissord.sysusers $(DESTDIR)$(SYSUSERSDIR)/scissord.conf
	install -m 644 systemd/scissord.tmpfiles $(DESTDIR)$(TMPFILESDIR)/scissord.conf
	install -m 644 systemd/scissord-gpu.conf $(DESTDIR)$(CONFDIR)
	$(Q)systemd/conf.sh install $(BUILD)/scissord.conf $(DESTDIR)$(CONF) $(DESTDIR)$(CONFDIR)/scissord.conf
uninstall: ## remove what install put there; below DESTDIR empty folders, too
	$(Q)systemd/conf.sh uninstall $(DESTDIR)$(CONF) $(DESTDIR)$(CONFDIR)/scissord.conf
	rm -f $(addprefix $(DESTDIR),$(INSTALLED))
	$(if $(DESTDIR),cd $(DESTDIR) && )for d in $(if $(DESTDIR),$(FOLDERS:/%/=%),$(CONFDIR)); do \
		[ ! -d $$d ] || rmdir $(if $(DESTDIR),-p) --ignore-fail-on-non-empty $$d || exit 1; done

# Built anew when something that it would be made from is.
DEB := $(BUILD)/deb/scissord_$(VERSION)_$(shell dpkg --print-architecture 2>/dev/null).deb
$(DEB): $(PROGRAMS) $(LIBRARIES) $(PAGES) Makefile $(shell find systemd client/ctl/scissorctl.bash -type f)
	$(Q)systemd/deb.sh $(VERSION) $(@D)
.PHONY: deb
deb: $(DEB) ## build Debian packages in build/deb (needs dpkg-dev and debhelper)

.PHONY: compdb
compdb: ## compile_commands.json for editors (needs bear)
	bear -- $(MAKE) -B all tests

# Objects are built as they are named above; make must not think that they are leftovers.
.SECONDARY:

.PHONY: clean
clean: ## remove build/
	rm -rf build

.PHONY: help
help: ## this list
	@grep -hE '^[a-z]+([- ][a-z]+)*:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | awk -F'\t' '{printf "  %-13s %s\n", $$1, $$2}'

-include $(shell find $(BUILD) -name deb -prune -o -type f -name '*.d' -print 2>/dev/null)
