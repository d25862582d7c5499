# Makefile: the whole build. It finds what the machine has, says so, and builds what it can.
#
#   make                 the program, the plug-in and its translations, in build/
#   make test            what the suite needs, then the suite (SANITIZE=1: with sanitizers;
#                        BACKEND=cuda: ops, stages and pictures on the GPU)
#   make install         for this user, or PREFIX=... DESTDIR=... (PLUGIN_DIR=...: GIMP's plug-ins)
#   make uninstall       takes away exactly what was installed
#   make bench-cutout    background removal over 100 pieces of art (ART=folder of Iconify packages)
#   make fuzzers         the fuzz targets; build/libfuzzer/fuzz_X is one that searches (clang)
#   make format          clang-format over the C files
#   make clean           removes build/
#   make help            these lines (V=1 anywhere: show the commands)
#
# A fresh machine: ./install.sh, which installs the Debian packages too.

CC      ?= cc
CSTD     = -std=gnu11
WARN     = -Wall -Wextra
OPT     ?= -O2 -g
BUILD   ?= build
PREFIX  ?= $(HOME)/.local

ifeq ($(SANITIZE),1)
BUILD   := build/sanitize
OPT      = -O1 -g -fno-omit-frame-pointer -fsanitize=address,undefined -fno-sanitize-recover=undefined
endif

# --- what the machine has ---
has = $(shell pkg-config --exists $(1) 2>/dev/null && pkg-config --modversion $(1) | head -n 1)

ENGINE_PKGS = gio-unix-2.0 json-glib-1.0 libpng
HAVE_ENGINE := $(if $(call has,$(ENGINE_PKGS)),yes)
HAVE_ONEDNN := $(shell $(CC) -include dnnl.h -E -x c /dev/null >/dev/null 2>&1 && echo yes)
HAVE_CURL   := $(call has,libcurl)
HAVE_GIMP   := $(call has,gimpui-2.0)
HAVE_TOOLS  := $(shell command -v msgfmt >/dev/null && command -v gdk-pixbuf-csource >/dev/null && echo yes)

ENGINE_LACKS = $(if $(HAVE_ENGINE),,libglib2.0-dev libjson-glib-dev libpng-dev) \
               $(if $(HAVE_ONEDNN),,libdnnl-dev)
PLUGIN_LACKS = $(if $(HAVE_GIMP),,libgimp2.0-dev) $(if $(HAVE_TOOLS),,gettext libgdk-pixbuf2.0-bin)

# --- what CUDA needs: see the backend below ---
NVCC        ?= $(firstword $(shell command -v nvcc 2>/dev/null) $(wildcard /usr/local/cuda/bin/nvcc))
CUDA        ?= $(patsubst %/bin/nvcc,%,$(NVCC))
CUDA_VERSION := $(if $(NVCC),$(shell $(NVCC) --version 2>/dev/null | sed -n 's/.*release \([0-9]*\).*/\1/p'))
has_header   = $(shell $(CC) -I$(CUDA)/include -include $(1) -E -x c /dev/null >/dev/null 2>&1 && echo yes)
CUDA_LACKS   = $(if $(CUDA_VERSION),$(if $(call has_header,cublasLt.h),,cuBLAS) $(if $(call has_header,cudnn.h),,cuDNN),nvcc)
CUDA_LACKS  := $(CUDA_LACKS)

# Short lines while building; V=1 shows the commands.
Q     = $(if $(V),,@)
SHOW  = $(if $(V),@:,@printf '  %-5s %s\n')

ENGINE_CFLAGS := $(shell pkg-config --cflags $(ENGINE_PKGS) 2>/dev/null)
ENGINE_LIBS   := $(shell pkg-config --libs $(ENGINE_PKGS) 2>/dev/null)
CURL_LIBS     := $(if $(HAVE_CURL),$(shell pkg-config --libs libcurl))
GIMP_CFLAGS   := $(shell pkg-config --cflags gimpui-2.0 2>/dev/null)
GIMP_LIBS     := $(shell pkg-config --libs gimpui-2.0 2>/dev/null)

CPPFLAGS += -Iengine -D_GNU_SOURCE -DMOJI_SOURCE_DIR='"$(CURDIR)"'
CFLAGS    = $(CSTD) $(WARN) $(OPT) -MMD -MP -fopenmp $(ENGINE_CFLAGS)
LDLIBS    = $(ENGINE_LIBS) $(CURL_LIBS) -ldnnl -fopenmp -lm -ldl
# Programs show their symbols to the backend that they open at run time.
LDFLAGS  += -rdynamic

PROGRAM  = $(BUILD)/moji
LIB      = $(BUILD)/libmoji.a
LIB_SRC  = $(filter-out engine/main.c,$(wildcard engine/*.c)) $(wildcard engine/cpu/*.c)
LIB_OBJ  = $(LIB_SRC:%.c=$(BUILD)/%.o)

.PHONY: all found engine cuda plugin tests fuzzers test install uninstall bench-cutout icons po \
        clean format help

all: found engine
ifeq ($(strip $(CUDA_LACKS)),)
all: cuda
endif
ifeq ($(strip $(PLUGIN_LACKS)),)
all: plugin
endif

found:
ifneq ($(strip $(ENGINE_LACKS)),)
	@echo "engine: cannot be built, it needs $(strip $(ENGINE_LACKS))" >&2
	@echo "  apt-get install $(strip $(ENGINE_LACKS))" >&2
	@exit 1
endif
	@echo "engine: $(CC), GLib $(call has,glib-2.0), oneDNN$(if $(HAVE_CURL),, - without moji fetch: no libcurl4-openssl-dev)"
ifeq ($(strip $(CUDA_LACKS)),)
	@echo "CUDA backend: nvcc $(CUDA_VERSION), cuBLAS, cuDNN"
else
	@echo "not built: the CUDA backend, which needs $(strip $(CUDA_LACKS))"
endif
ifeq ($(strip $(PLUGIN_LACKS)),)
	@echo "plug-in: GIMP $(HAVE_GIMP)"
else
	@echo "not built: the plug-in, which needs $(strip $(PLUGIN_LACKS))"
endif

# --- engine ---
engine: $(PROGRAM)

$(LIB): $(LIB_OBJ)
	$(SHOW) AR $@
	@rm -f $@
	$(Q)ar rcs $@ $^

$(PROGRAM): $(BUILD)/engine/main.o $(LIB)
	$(SHOW) LINK $@
	$(Q)$(CC) $(OPT) $(LDFLAGS) -o $@ $^ $(LDLIBS)

$(BUILD)/%.o: %.c
	@mkdir -p $(@D)
	$(SHOW) CC $<
	$(Q)$(CC) $(CPPFLAGS) $(CFLAGS) -c -o $@ $<

# Of all files only this one knows libcurl.
$(BUILD)/engine/transfer.o: CPPFLAGS += $(if $(HAVE_CURL),-DMOJI_CURL $(shell pkg-config --cflags libcurl))

# --- the CUDA backend: one shared object, opened at run time ---
# CUDA_ARCHS: the devices to make code for; later ones translate the last one's PTX when it is loaded.
ifneq ($(filter 12,$(CUDA_VERSION)),)
CUDA_ARCHS ?= 60 70 75 80 90
else
CUDA_ARCHS ?= 75 80 90
endif
CUDA_LAST   = $(lastword $(CUDA_ARCHS))
CUDA_SRC    = $(wildcard engine/cuda/*.c)
KERNEL_SRC  = $(wildcard kernels/*.cu)
CUDA_OBJ    = $(CUDA_SRC:%.c=$(BUILD)/cuda/%.o) $(KERNEL_SRC:%.cu=$(BUILD)/cuda/%.o)
NVCCFLAGS   = -std=c++17 -O3 -Xcompiler -fPIC,-Wall,-Wextra -MMD \
              $(foreach a,$(CUDA_ARCHS),-gencode=arch=compute_$(a),code=sm_$(a)) \
              -gencode=arch=compute_$(CUDA_LAST),code=compute_$(CUDA_LAST)

cuda: $(BUILD)/libmoji-cuda.so

$(BUILD)/cuda/%.o: %.c
	@mkdir -p $(@D)
	$(SHOW) CC $<
	$(Q)$(CC) $(CPPFLAGS) $(CFLAGS) -fPIC -Ikernels -I$(CUDA)/include -c -o $@ $<

$(BUILD)/cuda/%.o: %.cu
	@mkdir -p $(@D)
	$(SHOW) NVCC $<
	$(Q)$(NVCC) $(NVCCFLAGS) -c -o $@ $<

$(BUILD)/libmoji-cuda.so: $(CUDA_OBJ)
	$(SHOW) LINK $@
	$(Q)$(CC) $(OPT) -shared -o $@ $^ -L$(CUDA)/lib64 -Wl,-rpath,$(CUDA)/lib64 -lcudart_static \
	    -lcublasLt -lcudnn -lstdc++ -lpthread -lrt -ldl

# The same backend and kernels on the host, for the suite: tests/shim/.
SHIM        = $(BUILD)/shim
# -O2 with sanitizers too: blocks are slow enough.
SHIM_FLAGS  = -Itests/shim -Ikernels -Iengine/cuda -fPIC -O2
SHIM_KERNEL = $(KERNEL_SRC:kernels/%.cu=$(SHIM)/%.o) $(SHIM)/shim.o
SHIM_C      = $(filter-out libraries cublas cudnn,$(CUDA_SRC:engine/cuda/%.c=%))
SHIM_OBJ    = $(SHIM_KERNEL) $(SHIM_C:%=$(SHIM)/backend/%.o) $(SHIM)/backend/libraries.o
CXXFLAGS    = -std=c++17 $(WARN) -Wno-unknown-pragmas $(OPT) -MMD -MP

$(SHIM)/%.o: kernels/%.cu
	@mkdir -p $(@D)
	$(SHOW) CXX $<
	$(Q)$(CXX) $(CXXFLAGS) $(SHIM_FLAGS) -x c++ -c -o $@ $<

$(SHIM)/shim.o: tests/shim/shim.cpp
	@mkdir -p $(@D)
	$(SHOW) CXX $<
	$(Q)$(CXX) $(CXXFLAGS) $(SHIM_FLAGS) -c -o $@ $<

$(SHIM)/backend/%.o: engine/cuda/%.c
	@mkdir -p $(@D)
	$(SHOW) CC $<
	$(Q)$(CC) $(CPPFLAGS) $(CFLAGS) $(SHIM_FLAGS) -c -o $@ $<

$(SHIM)/backend/libraries.o: tests/shim/libraries.c
	@mkdir -p $(@D)
	$(SHOW) CC $<
	$(Q)$(CC) $(CPPFLAGS) $(CFLAGS) $(SHIM_FLAGS) -c -o $@ $<

$(SHIM)/libmoji-cuda.so: $(SHIM_OBJ)
	$(SHOW) LINK $@
	$(Q)$(CXX) $(OPT) -shared -o $@ $^
# --- end of the CUDA backend ---

# --- the plug-in for GIMP 2.10: build/plug-ins/emoji-maker/ is laid out as it is installed ---
PLUGIN      = $(BUILD)/plug-ins/emoji-maker
PLUGIN_OBJ  = $(patsubst %.c,$(BUILD)/%.o,$(wildcard plugin/*.c)) \
              $(patsubst %,$(BUILD)/engine/%.o,client wire request image json error)
PLUGIN_LANG = $(patsubst plugin/po/%.po,%,$(wildcard plugin/po/*.po))
PLUGIN_MO   = $(PLUGIN_LANG:%=$(PLUGIN)/locale/%/LC_MESSAGES/gimp20-emoji-maker.mo)
PLUGIN_HELP = $(patsubst plugin/%,$(PLUGIN)/%,$(wildcard plugin/help/*/*))

plugin: $(PLUGIN)/emoji-maker $(PLUGIN_MO) $(PLUGIN_HELP)

$(BUILD)/plugin/%.o: CPPFLAGS += -I$(BUILD)/plugin -DGLIB_DISABLE_DEPRECATION_WARNINGS \
                                -DGDK_PIXBUF_VERSION_MIN_REQUIRED=GDK_PIXBUF_VERSION_2_30
$(BUILD)/plugin/%.o: CFLAGS = $(CSTD) $(WARN) $(OPT) -MMD -MP \
                              $(GIMP_CFLAGS) $(ENGINE_CFLAGS)
$(patsubst %.c,$(BUILD)/%.o,$(wildcard plugin/*.c)): $(BUILD)/plugin/icons.h

$(PLUGIN)/emoji-maker: $(PLUGIN_OBJ)
	@mkdir -p $(@D)
	$(SHOW) LINK $@
	$(Q)$(CC) $(OPT) -o $@ $^ $(GIMP_LIBS) $(ENGINE_LIBS) -lm

$(BUILD)/plugin/icons.h: icons/emoji-maker-16.png icons/emoji-maker-64.png icons/dice-16.png
	@mkdir -p $(@D)
	$(Q)gdk-pixbuf-csource --raw --static --name=moji_icon_menu icons/emoji-maker-16.png >$@
	$(Q)gdk-pixbuf-csource --raw --static --name=moji_icon_large icons/emoji-maker-64.png >>$@
	$(Q)gdk-pixbuf-csource --raw --static --name=moji_icon_dice icons/dice-16.png >>$@

$(PLUGIN)/locale/%/LC_MESSAGES/gimp20-emoji-maker.mo: plugin/po/%.po
	@mkdir -p $(@D)
	$(SHOW) MO $<
	$(Q)msgfmt -c -o $@ $<

$(PLUGIN)/help/%: plugin/help/%
	@mkdir -p $(@D)
	$(Q)cp $< $@

# An engine whose every pixel is known, for tests/gimp/run.sh; the library brings all but its drawing.
$(BUILD)/tests/gimp/standin: $(BUILD)/tests/gimp/standin.o $(LIB)
	$(SHOW) LINK $@
	$(Q)$(CC) $(OPT) -o $@ $^ $(LDLIBS)

ifeq ($(strip $(PLUGIN_LACKS)),)
tests: $(BUILD)/tests/gimp/standin $(BUILD)/emoji-maker.pot
endif

# The PNG files of icons/ from the drawings, and the .po files after a change of the texts.
icons:
	rsvg-convert -w 16 icons/emoji-maker.svg -o icons/emoji-maker-16.png
	rsvg-convert -w 64 icons/emoji-maker.svg -o icons/emoji-maker-64.png
	rsvg-convert -w 16 icons/dice.svg -o icons/dice-16.png

# Only the texts: dates and line numbers would change with every call.
$(BUILD)/emoji-maker.pot: plugin/po/POTFILES $(shell cat plugin/po/POTFILES)
	@mkdir -p $(@D)
	xgettext -f $< -o - --from-code=UTF-8 -k_ -kN_ --no-location --sort-output \
	    --package-name=emoji-maker | sed '/^"POT-Creation-Date/d' >$@

po: $(BUILD)/emoji-maker.pot
	for po in plugin/po/*.po; do \
	    msgmerge -q -U -N --backup=none --no-location --sort-output $$po $<; done
# --- end of the plug-in ---

# --- tests: each tests/test_X.c is a program; the other tests/*.c are linked into all of them ---
TEST_SRC  = $(wildcard tests/test_*.c)
TEST_BIN  = $(TEST_SRC:tests/%.c=$(BUILD)/tests/%)
TEST_HELP = $(patsubst %.c,$(BUILD)/%.o,$(filter-out $(TEST_SRC),$(wildcard tests/*.c)))

$(BUILD)/tests/%.o: CPPFLAGS += -Itests
$(BUILD)/tests/test_kernels.o: CPPFLAGS += -Itests/shim -Ikernels
$(BUILD)/tests/test_cuda.o: CPPFLAGS += -Itests/shim
$(BUILD)/tests/test_kernels: $(SHIM_KERNEL)
$(BUILD)/tests/test_kernels: LDLIBS += -lstdc++

$(BUILD)/tests/test_%: $(BUILD)/tests/test_%.o $(TEST_HELP) $(LIB)
	$(SHOW) LINK $@
	$(Q)$(CC) $(OPT) $(LDFLAGS) -o $@ $^ $(LDLIBS)

tests: $(TEST_BIN) $(SHIM)/libmoji-cuda.so

# --- fuzzers: build/fuzz/fuzz_X replays its corpus in the suite, build/libfuzzer/fuzz_X (clang)
# adds to it ---
FUZZ_SRC = $(wildcard tests/fuzz/fuzz_*.c)
FUZZ_BIN = $(FUZZ_SRC:tests/fuzz/%.c=$(BUILD)/fuzz/%)
FUZZ_OPT = -O1 -g -fno-omit-frame-pointer -fno-sanitize-recover=undefined -fsanitize=address,undefined

$(BUILD)/fuzz/fuzz_%: $(BUILD)/tests/fuzz/fuzz_%.o $(BUILD)/tests/fuzz/replay.o $(LIB)
	@mkdir -p $(@D)
	$(SHOW) LINK $@
	$(Q)$(CC) $(OPT) -o $@ $^ $(LDLIBS)

build/libfuzzer/fuzz_%: tests/fuzz/fuzz_%.c $(LIB_SRC)
	$(MAKE) CC=clang BUILD=build/libfuzzer OPT='$(FUZZ_OPT),fuzzer-no-link' \
	    build/libfuzzer/tests/fuzz/fuzz_$*.o build/libfuzzer/libmoji.a
	clang $(FUZZ_OPT),fuzzer -o $@ build/libfuzzer/tests/fuzz/fuzz_$*.o \
	    build/libfuzzer/libmoji.a $(LDLIBS)

fuzzers: $(FUZZ_BIN)
# --- end of the fuzzers ---

# The second make looks at the machine again, with the packages there.
test:
	@./install.sh --packages-only --tests
ifeq ($(BACKEND),cuda)
	@$(MAKE) --no-print-directory $(if $(filter -j%,$(MAKEFLAGS)),,-j$(shell nproc)) all tests
	@MOJI_TEST_BACKEND=cuda tests/run.sh $(BUILD) ops stages pictures gpu
else
	@$(MAKE) --no-print-directory $(if $(filter -j%,$(MAKEFLAGS)),,-j$(shell nproc)) all tests fuzzers
	@tests/run.sh $(BUILD)
endif

# --- benchmarks: tests/bench/X.c -> build/bench/X ---
$(BUILD)/bench/%: $(BUILD)/tests/bench/%.o $(TEST_HELP) $(LIB)
	@mkdir -p $(@D)
	$(SHOW) LINK $@
	$(Q)$(CC) $(OPT) $(LDFLAGS) -o $@ $^ $(LDLIBS)

# The art: npm's @iconify-json/noto, fluent-emoji-flat, twemoji, emojione, fxemoji as .tgz files.
bench-cutout: $(BUILD)/bench/cutout
	@test -n "$(ART)" || { echo "usage: make bench-cutout ART=folder [CONDITION=noise]"; exit 2; }
	@rm -rf $(BUILD)/cutout-art
	python3 tests/fixtures/make_cutout.py --art "$(ART)" --sample 100 $(BUILD)/cutout-art
	$< $(BUILD)/cutout-art $(CONDITION)

# --- installing: install.sh copies, keeps the list of what it copied, and undoes it ---
INSTALL_ARGS = --prefix "$(PREFIX)" $(if $(DESTDIR),--destdir "$(DESTDIR)") \
               $(if $(PLUGIN_DIR),--plug-ins "$(PLUGIN_DIR)")

install: all
	@./install.sh --copy-only $(INSTALL_ARGS)

uninstall:
	@./install.sh --uninstall $(INSTALL_ARGS)

clean:
	rm -rf build

format:
	clang-format -i engine/*.[ch] engine/*/*.[ch] kernels/*.h kernels/*.cu kernels/*.cuh plugin/*.[ch] tests/*.[ch] tests/*/*.[ch]

help:
	@sed -n '3,/^$$/s/^# \{0,2\}//p' Makefile

.SECONDARY:
-include $(shell find $(BUILD) -name '*.d' 2>/dev/null)
