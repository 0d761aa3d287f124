# To be sourced: lets pip and npm trust the CA bundle that the build was given, if it was given one.
# The bundle stays in the stage that used it; nothing of it reaches the image.
if [ -s /build/extra-ca.pem ]; then
    export PIP_CERT=/build/extra-ca.pem NODE_EXTRA_CA_CERTS=/build/extra-ca.pem NPM_CONFIG_CAFILE=/build/extra-ca.pem
fi
