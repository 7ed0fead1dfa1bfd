#!/bin/sh
# The library never prints, exits, reads the environment, runs programs or touches signals: none of its rooms
# refers to a function that does. TAP, one case per archive.
#
#   tools/check-symbols.sh libROOM.a...
set -eu
forbidden='printf|vprintf|puts|putchar|putc|perror|stdout|stderr|stdin|exit|_exit|_Exit|quick_exit|abort|getenv|secure_getenv'
forbidden="$forbidden|setenv|putenv|signal|sigaction|raise|kill|alarm|setitimer|system|popen|fork|execve|execvp|__printf_chk|__vprintf_chk"
n=0 status=0
echo "1..$#"
for archive in "$@"; do
	n=$((n + 1))
	hits=$(nm -A -u "$archive" 2>/dev/null | grep -E "[ :]U ($forbidden)(@.*)?\$" || true)
	if [ -n "$hits" ]; then
		printf '%s\n' "$hits" | sed 's/^/# /'
		echo "not ok $n - $(basename "$archive") stays a library"
		status=1
	else
		echo "ok $n - $(basename "$archive") stays a library"
	fi
done
exit $status
