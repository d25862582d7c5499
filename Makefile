# Makefile: the whole build. It finds what the machine has, says so, and builds what it can.
#
#   make                 the program, the plug-in, translations      (build/)
#   make test            everything the suite needs, then the suite  (SANITIZE=1: with sanitizers)
#   make install         for this user; see install.sh for a fresh machine
#   make format          clang-format over the C files
#   make help            these lines

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

ENGINE_PKGS = gio-unix-2.0 json-glib-1.0 libpng
HAVE_ENGINE := $(shell pkg-config --exists $(ENGINE_PKGS) && echo yes)
HAVE_GIMP   := $(shell pkg-config --exists gimpui-2.0 && echo yes)

CPPFLAGS += -Iengine -D_GNU_SOURCE -DMOJI_SOURCE_DIR='"$(CURDIR)"'
CFLAGS    = $(CSTD) $(WARN) $(OPT) -MMD -MP -fopenmp $(shell pkg-config --cflags $(ENGINE_PKGS))
LDLIBS    = $(shell pkg-config --libs $(ENGINE_PKGS)) -ldnnl -fopenmp -lm

PROGRAM  = $(BUILD)/moji
LIB      = $(BUILD)/libmoji.a
LIB_SRC  = $(filter-out engine/main.c,$(wildcard engine/*.c)) $(wildcard engine/cpu/*.c)
LIB_OBJ  = $(LIB_SRC:%.c=$(BUILD)/%.o)
TEST_SRC = $(wildcard tests/test_*.c)
TEST_BIN = $(TEST_SRC:tests/%.c=$(BUILD)/tests/%)

.PHONY: all test fuzzers clean format help
all: $(if $(wildcard engine/main.c),$(PROGRAM),$(LIB))

$(LIB): $(LIB_OBJ)
	@rm -f $@
	ar rcs $@ $^

$(PROGRAM): $(BUILD)/engine/main.o $(LIB)
	$(CC) $(OPT) -o $@ $^ $(LDLIBS)

$(BUILD)/%.o: %.c
	@mkdir -p $(@D)
	$(CC) $(CPPFLAGS) $(CFLAGS) -c -o $@ $<

$(BUILD)/tests/test_%: $(BUILD)/tests/test_%.o $(BUILD)/tests/test.o $(LIB)
	$(CC) $(OPT) -o $@ $^ $(LDLIBS)

tests: $(TEST_BIN)

# Fuzzers: build/fuzz/fuzz_X replays its corpus in the suite, build/libfuzzer/fuzz_X (clang) adds to it.
FUZZ_SRC = $(wildcard tests/fuzz/fuzz_*.c)
FUZZ_BIN = $(FUZZ_SRC:tests/fuzz/%.c=$(BUILD)/fuzz/%)
FUZZ_OPT = -O1 -g -fno-omit-frame-pointer -fno-sanitize-recover=undefined -fsanitize=address,undefined

$(BUILD)/fuzz/fuzz_%: $(BUILD)/tests/fuzz/fuzz_%.o $(BUILD)/tests/fuzz/replay.o $(LIB)
	@mkdir -p $(@D)
	$(CC) $(OPT) -o $@ $^ $(LDLIBS)

build/libfuzzer/fuzz_%: tests/fuzz/fuzz_%.c $(LIB_SRC)
	$(MAKE) CC=clang BUILD=build/libfuzzer OPT='$(FUZZ_OPT),fuzzer-no-link' \
	    build/libfuzzer/tests/fuzz/fuzz_$*.o build/libfuzzer/libmoji.a
	clang $(FUZZ_OPT),fuzzer -o $@ build/libfuzzer/tests/fuzz/fuzz_$*.o \
	    build/libfuzzer/libmoji.a $(LDLIBS)

fuzzers: $(FUZZ_BIN)

# --- the plug-in for GIMP 2.10: build/plug-ins/emoji-maker/ is laid out as it is installed ---
PLUGIN      = $(BUILD)/plug-ins/emoji-maker
PLUGIN_OBJ  = $(patsubst %.c,$(BUILD)/%.o,$(wildcard plugin/*.c)) \
              $(patsubst %,$(BUILD)/engine/%.o,client wire request image error)
PLUGIN_LANG = $(patsubst plugin/po/%.po,%,$(wildcard plugin/po/*.po))
PLUGIN_MO   = $(PLUGIN_LANG:%=$(PLUGIN)/locale/%/LC_MESSAGES/gimp20-emoji-maker.mo)
PLUGIN_HELP = $(patsubst plugin/%,$(PLUGIN)/%,$(wildcard plugin/help/*/*))
PLUGIN_DIR ?= $(shell gimptool-2.0 --gimpplugindir 2>/dev/null)

ifeq ($(HAVE_GIMP),yes)
all: plugin
endif

plugin: $(PLUGIN)/emoji-maker $(PLUGIN_MO) $(PLUGIN_HELP)

$(BUILD)/plugin/%.o: CPPFLAGS += -I$(BUILD)/plugin -DGLIB_DISABLE_DEPRECATION_WARNINGS \
                                -DGDK_PIXBUF_DISABLE_DEPRECATION_WARNINGS
$(BUILD)/plugin/%.o: CFLAGS = $(CSTD) $(WARN) $(OPT) -MMD -MP \
                              $(shell pkg-config --cflags gimpui-2.0 $(ENGINE_PKGS))
$(patsubst %.c,$(BUILD)/%.o,$(wildcard plugin/*.c)): $(BUILD)/plugin/icons.h

$(PLUGIN)/emoji-maker: $(PLUGIN_OBJ)
	@mkdir -p $(@D)
	$(CC) $(OPT) -o $@ $^ $(shell pkg-config --libs gimpui-2.0 $(ENGINE_PKGS)) -lm

$(BUILD)/plugin/icons.h: icons/emoji-maker-16.png icons/emoji-maker-64.png icons/dice-16.png
	@mkdir -p $(@D)
	gdk-pixbuf-csource --raw --static --name=moji_icon_menu icons/emoji-maker-16.png >$@
	gdk-pixbuf-csource --raw --static --name=moji_icon_large icons/emoji-maker-64.png >>$@
	gdk-pixbuf-csource --raw --static --name=moji_icon_dice icons/dice-16.png >>$@

$(PLUGIN)/locale/%/LC_MESSAGES/gimp20-emoji-maker.mo: plugin/po/%.po
	@mkdir -p $(@D)
	msgfmt -c -o $@ $<

$(PLUGIN)/help/%: plugin/help/%
	@mkdir -p $(@D)
	cp $< $@

# The PNG files of icons/ from the drawings, and the .po files after a change of the texts.
icons:
	rsvg-convert -w 16 icons/emoji-maker.svg -o icons/emoji-maker-16.png
	rsvg-convert -w 64 icons/emoji-maker.svg -o icons/emoji-maker-64.png
	rsvg-convert -w 16 icons/dice.svg -o icons/dice-16.png

po:
	xgettext -f plugin/po/POTFILES -o $(BUILD)/emoji-maker.pot --from-code=UTF-8 -k_ -kN_ \
	    --package-name=emoji-maker --no-location --sort-output
	for po in plugin/po/*.po; do msgmerge -q -U --backup=none --no-location $$po $(BUILD)/emoji-maker.pot; done

.PHONY: plugin icons po
-include $(wildcard $(BUILD)/plugin/*.d)
# --- end of the plug-in ---

clean:
	rm -rf build

format:
	clang-format -i engine/*.[ch] engine/cpu/*.[ch] plugin/*.[ch] tests/*.[ch]

help:
	@sed -n '2,/^$$/s/^# \{0,2\}//p' Makefile

-include $(LIB_OBJ:.o=.d) $(BUILD)/engine/main.d $(TEST_BIN:=.d) $(wildcard $(BUILD)/tests/fuzz/*.d)
