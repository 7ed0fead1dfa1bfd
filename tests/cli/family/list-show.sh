# What is built in; a description printed is one that can be read again.
stele family list | grep -cx -e gemma2 -e llama -e mixtral
stele family list --json | jq -r '.schema, (.families | length > 5)'
stele family show gemma2 > mine.family
grep -c "^family gemma2$" mine.family
stele family show nothing || echo "exit $?"
