# Builds modelbox with the system's own Python and installs it into a tree; what the deb and the rpm are made of.
#
#   make -f packaging/install.mk build
#   make -f packaging/install.mk install DESTDIR=/tmp/tree [PYTHON_LIB=/usr/lib/python3/dist-packages]
#
# Needs python3 (>= 3.11) with headers, setuptools, cffi and the run-time packages of pyproject.toml (the manual pages are
# made from the commands themselves), g++, OpenCV's core, imgproc and imgcodecs, and libturbojpeg.
PYTHON ?= /usr/bin/python3
PREFIX ?= /usr
PYTHON_LIB ?= $(PREFIX)/lib/python3/dist-packages
SYSTEMD_LIB ?= $(PREFIX)/lib/systemd
PKGCONFIG ?= $(PREFIX)/share/pkgconfig
MAN := $(PREFIX)/share/man
DOC := $(PREFIX)/share/doc/modelbox
OUT := build/package
LIB := $(OUT)/lib
D := $(DESTDIR)
VERSION := $(shell sed -n 's/^VERSION = "\(.*\)"/\1/p' modelbox/version.py)
UNITS := $(patsubst flowunits/%/,%,$(filter-out flowunits/common/ flowunits/__pycache__/,$(wildcard flowunits/*/)))
# Folder of the mypyc for PYTHON (mypyc.txt says which); empty: the hot modules are not compiled, and the server needs
# more CPU time per call.
MYPYC ?=
# Or a folder where that was done already, from the same sources.
COMPILED ?=
INSTALL := install -p -D -m 644

build:
	$(MAKE) -C flowunits
	$(PYTHON) setup.py -q build --build-base $(OUT) --build-lib $(LIB)
	rm -rf $(LIB)/modelboxd/flowunits $(LIB)/modelboxd/_compiled
ifneq ($(COMPILED),)
	cp -R $(COMPILED) $(LIB)/modelboxd/_compiled
else ifneq ($(MYPYC),)
	PYTHONPATH=$(MYPYC) PYTHONHASHSEED=0 $(PYTHON) packaging/compile.py $(LIB)/modelboxd/_compiled
endif
	PYTHONPATH=$(LIB) PYTHONDONTWRITEBYTECODE=1 MODELBOX_ROOT=/ $(PYTHON) packaging/manpages.py $(OUT)/man
	PYTHONPATH=$(LIB) PYTHONDONTWRITEBYTECODE=1 $(PYTHON) packaging/completion.py $(OUT)/completion

# Those that need no model and nothing to build. In the texts, commands are those of the package, and links are right.
EXAMPLES := hello_world word_count json_service
INSTALLED := -e 's|[.]venv/bin/python|python3|g; s|[.]venv/bin/||g' -e 's|](docs/|](|g; s|](../examples/|](examples/|g; s|](../../docs/|](../../|g'

# Links and modes as they are in the sources; bytecode is the business of the packages.
install: install-daemon install-dev

install-daemon:
	install -d $(D)$(PYTHON_LIB) $(D)/etc/modelbox/conf.d $(D)/etc/modelbox/graph
	cp -R --preserve=timestamps $(LIB)/modelbox $(LIB)/modelboxd $(D)$(PYTHON_LIB)/
	find $(D)$(PYTHON_LIB)/modelbox $(D)$(PYTHON_LIB)/modelboxd -name __pycache__ -prune -exec rm -r {} +
	rm -f $(D)$(PYTHON_LIB)/modelbox/_core/*.c $(D)$(PYTHON_LIB)/modelbox/_core/build.py
	set -e; for unit in $(UNITS); do for file in flowunits/$$unit/*.toml flowunits/$$unit/*.py flowunits/$$unit/*.so; do \
	  test ! -e $$file || $(INSTALL) $$file $(D)$(PREFIX)/lib/modelbox/$$unit/$${file##*/}; done; done
	set -e; for file in packaging/bin/*; do install -p -D -m 755 $$file $(D)$(PREFIX)/bin/$${file##*/}; done
	$(INSTALL) etc/modelbox/modelbox.conf $(D)/etc/modelbox/modelbox.conf
	$(INSTALL) etc/modelbox/graph.conf $(D)/etc/modelbox/graph.conf
	$(INSTALL) systemd/modelbox.default $(D)/etc/default/modelbox
	$(INSTALL) systemd/modelbox.logrotate $(D)/etc/logrotate.d/modelbox
	$(INSTALL) systemd/modelbox.service $(D)$(SYSTEMD_LIB)/system/modelbox.service
	$(INSTALL) systemd/modelbox@.service $(D)$(SYSTEMD_LIB)/system/modelbox@.service
	$(INSTALL) systemd/modelbox.socket $(D)$(SYSTEMD_LIB)/system/modelbox.socket
	$(INSTALL) systemd/user/modelbox.service $(D)$(SYSTEMD_LIB)/user/modelbox.service
	$(INSTALL) systemd/modelbox.sysusers $(D)$(PREFIX)/lib/sysusers.d/modelbox.conf
	$(INSTALL) systemd/modelbox.tmpfiles $(D)$(PREFIX)/lib/tmpfiles.d/modelbox.conf
	set -e; for page in $(OUT)/man/*; do $(INSTALL) $$page $(D)$(MAN)/man$${page##*.}/$${page##*/}; done
	set -e; for name in modelbox modelbox-tool modelbox-python-debug; do \
	  $(INSTALL) $(OUT)/completion/$$name.bash $(D)$(PREFIX)/share/bash-completion/completions/$$name; \
	  $(INSTALL) $(OUT)/completion/_$$name $(D)$(PREFIX)/share/zsh/vendor-completions/_$$name; done
	set -e; for file in docs/*.md README.md $(EXAMPLES:%=examples/%/README.md); do \
	  if [ -e $$file ]; then $(INSTALL) $$file $(D)$(DOC)/$${file#docs/}; sed -i $(INSTALLED) $(D)$(DOC)/$${file#docs/}; \
	  touch -r $$file $(D)$(DOC)/$${file#docs/}; fi; done
	set -e; for file in systemd/examples/*.conf; do $(INSTALL) $$file $(D)$(DOC)/examples/systemd/$${file##*/}; done
	cd examples && find $(EXAMPLES) -type f -not -name README.md -not -path '*/__pycache__/*' -exec install -p -D -m 644 {} $(abspath $(D)$(DOC))/examples/{} \;

install-dev:
	$(INSTALL) csrc/include/modelbox/plugin.h $(D)$(PREFIX)/include/modelbox/plugin.h
	install -d $(D)$(PKGCONFIG) $(D)$(PREFIX)/share/cmake/modelbox
	for name in modelbox.pc modelboxConfig.cmake modelboxConfigVersion.cmake; do \
	  sed -e 's|@VERSION@|$(VERSION)|g' -e 's|@PREFIX@|$(PREFIX)|g' packaging/dev/$$name.in >$(OUT)/$$name || exit 1; done
	$(INSTALL) $(OUT)/modelbox.pc $(D)$(PKGCONFIG)/modelbox.pc
	$(INSTALL) $(OUT)/modelboxConfig.cmake $(D)$(PREFIX)/share/cmake/modelbox/modelboxConfig.cmake
	$(INSTALL) $(OUT)/modelboxConfigVersion.cmake $(D)$(PREFIX)/share/cmake/modelbox/modelboxConfigVersion.cmake
	$(INSTALL) csrc/template/example_unit.c $(D)$(PREFIX)/share/modelbox/template/example_unit.c
	$(INSTALL) packaging/dev/CMakeLists.txt $(D)$(PREFIX)/share/modelbox/template/CMakeLists.txt
	$(INSTALL) packaging/dev/Makefile $(D)$(PREFIX)/share/modelbox/template/Makefile

.PHONY: build install install-daemon install-dev
