# More threads than any machine has are no request to make that many.
stele replay --make-manifest --kind d128 --threads 4294967295 --out cap > /dev/null
stele replay --manifest cap/manifest.json --threads 100000 | grep verdict
