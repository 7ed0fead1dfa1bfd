# The front door. meson and ninja do the work; see README.md.
#
#   make              build/stele
#   make demo         install what is missing, build, and find a planted fault
#   make check        install what is missing, build with warnings as errors, run the tests; unit tests by clang with sanitizers
#   make check-long   sanitizers over every quick test (of threads too), clang-tidy, valgrind, fuzz corpora, the slow tests
#   make bench        figures beside their limits
#   make install      DESTDIR and PREFIX are honoured
BUILD ?= build
CHECK ?= build-check
PREFIX ?= /usr/local
DESTDIR ?=

.PHONY: all deps demo check check-long bench install uninstall clean

all: $(BUILD)/build.ninja
	ninja -C $(BUILD)

$(BUILD)/build.ninja:
	meson setup -Dtests=false --prefix=$(PREFIX) $(BUILD)

deps:
	@tools/install-deps.sh

demo: deps
	@$(MAKE) --no-print-directory all
	@tools/demo.sh $(BUILD)/stele

check: deps
	@tools/install-deps.sh packages-check.txt
	@CLOSING=$(CLOSING) tools/check.sh $(CHECK)

check-long: deps
	@tools/install-deps.sh packages-check.txt packages-long.txt
	@tools/check-long.sh

bench: all
	ninja -C $(BUILD) bench/stele-bench
	tools/bench.sh $(BUILD)

# The folder may have been configured for another prefix, by make or make demo.
install: all
	meson configure $(BUILD) --prefix=$(PREFIX) && ninja -C $(BUILD)
	DESTDIR=$(DESTDIR) meson install -C $(BUILD) --no-rebuild

uninstall:
	ninja -C $(BUILD) uninstall

clean:
	rm -rf $(BUILD) $(CHECK) $(CHECK)-clang build-asan build-clang build-threads build-valgrind
