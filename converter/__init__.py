"""Any Docker/OCI image in, one DAX-mountable root file system out."""
