# A reader that goes away ends the command quietly.
{ stele help --completion bash; echo "status $?" >&2; } | true
