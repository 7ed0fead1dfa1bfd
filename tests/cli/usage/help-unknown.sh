# help knows the same slips, and one command at a time.
stele help tarce && exit 1
stele help trace inspect
