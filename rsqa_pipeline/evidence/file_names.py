"""Names of the files of an evidence package; the writer and the audit share them."""

EVIDENCE, BOM, PROV = "evidence.json", "bom.json", "prov.json"
CARD, DATA_MANIFEST = "README.md", "data_manifest.json"
MODEL_SIGNATURE, PACKAGE_SIGNATURE, PUBLIC_KEY = "model.sig", "package.sig", "public_key.pem"
