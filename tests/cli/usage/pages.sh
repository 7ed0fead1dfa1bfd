# Every command has a manual page that is installed, and no page lacks its command.
stele help --list | sort > commands
sed -n "s/^cli_commands = \[\(.*\)\]/\1/p" "$CASES/../../../src/cli/meson.build" | tr -d "'" | sed 's/, */\n/g' | sort > pages
test -s pages
diff commands pages
