# Folders without a model, pipes and devices are refused, not waited for.
mkdir folder
mkfifo pipe
for f in folder pipe /dev/null /dev/zero; do
	timeout 10 stele inspect "$f" && exit 1
	[ $? = 2 ]
done
