stele inspekt x
