stele replay --codebook-lint
printf '0.5 1.5\n' > t
stele replay --codebook-lint --table t > /dev/null || echo "$?"
stele replay --codebook-lint --json | jq -r .verdict
