# The table of docs/families.md has a line for each family, and no other.
page=$CASES/../../../docs/families.md
sed -n '/^<!-- table/,/^<!-- end/s/^| `\([a-z0-9_]*\)`.*/\1/p' $page > rows
stele family list > families
test -s families
diff families rows
