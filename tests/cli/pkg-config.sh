#!/bin/sh
# What a program that uses libstele is compiled and linked with: nothing of the libraries that libstele itself uses, but
# all of them where it is linked as an archive. TAP.
#
#   pkg-config.sh FOLDER-OF-STELE.PC
set -u
export PKG_CONFIG_PATH="$1"
echo 1..3
# check NUMBER NAME CONDITION...
check() {
	n=$1 name=$2
	shift 2
	"$@" && echo "ok $n - $name" || { echo "not ok $n - $name"; status=1; }
}
status=0
flags=$(pkg-config --cflags stele)
echo "# cflags: $flags"
others=$(printf '%s\n' $flags | grep -vxE -- "-I$(pkg-config --variable=includedir stele)" | wc -l)
check 1 "no other library's flags" [ "$others" = 0 ]
libs=$(pkg-config --libs stele)
echo "# libs: $libs"
others=$(printf '%s\n' $libs | grep -vxE -- '-lstele|-L.*' | wc -l)
check 2 "no other library" [ "$others" = 0 ]
static=" $(pkg-config --static --libs stele) "
echo "# static: $static"
all=yes
for lib in jansson pcre2-8 utf8proc deflate z zstd lz4 crypto m; do
	case "$static" in *" -l$lib "*) ;; *) all="no $lib" ;; esac
done
check 3 "an archive's libraries are named" [ "$all" = yes ]
exit $status
