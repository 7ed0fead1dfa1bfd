# A reader that has gone away ends the command quietly, by the status of SIGPIPE.
{ sleep 0.3; status=0; stele help --completion bash || status=$?; echo "status $status" >&2; } | true
