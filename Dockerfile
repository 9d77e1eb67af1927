# All programs of Darda, an image each: docker build --target chat-service .
#
# The workspace is compiled once, in `build`; the images at the end only copy from it. Programs that are compiled already
# can take its place: docker build --build-context binaries=target/release --target chat-service .
# (linked on the Debian of DEBIAN_IMAGE or an older one; then nothing is fetched).
#
# Needs BuildKit or buildah. Beside the base images it asks the package registries of Rust and npm, nobody else.

ARG RUST_IMAGE=rust:1.91-bookworm
ARG NODE_IMAGE=node:22-bookworm-slim
ARG DEBIAN_IMAGE=debian:bookworm-slim
# The stage whose page goes into chat-service: web, or none where it is read from disk.
ARG PAGE=web

FROM ${NODE_IMAGE} AS web
WORKDIR /src/web
COPY web/package.json web/package-lock.json ./
RUN --mount=type=cache,target=/root/.npm npm ci --no-audit --no-fund
COPY web/ ./
RUN npm run build

FROM ${DEBIAN_IMAGE} AS none
# The second becomes the data folder of standalone, whose image has nothing to make one with.
RUN mkdir -p /src/web/dist /data

FROM ${PAGE} AS page

FROM ${RUST_IMAGE} AS build
# release is what ships; dev compiles fast and reads the page from disk.
ARG PROFILE=release
WORKDIR /src
# Folder by folder, so that a change of anything else compiles nothing.
COPY Cargo.toml Cargo.lock ./
COPY .cargo .cargo
COPY crates crates
COPY chat-service chat-service
COPY history-service history-service
COPY persistence-worker persistence-worker
COPY standalone standalone
COPY console console
COPY loadgen loadgen
COPY e2e e2e
COPY --from=page /src/web/dist web/dist
# The caches are gone after the step, so what is wanted is copied out of them.
RUN --mount=type=cache,target=/usr/local/cargo/registry \
    --mount=type=cache,target=/src/target \
    cargo build --locked --profile "$PROFILE" --workspace --exclude model --bins && \
    mkdir /out && \
    find "target/$([ "$PROFILE" = dev ] && echo debug || echo "$PROFILE")" -maxdepth 1 -type f -executable \
      -exec cp -t /out {} +

# What a folder of compiled programs can be given for.
FROM scratch AS binaries
COPY --from=build /out/ /

# What the programs are linked with, how names are looked up, and a user. No shell, no packages; the certificate authorities are
# in the programs.
FROM ${DEBIAN_IMAGE} AS libraries
RUN mkdir -p /image/etc /image/tmp && \
    chmod 1777 /image/tmp && \
    cp --parents --dereference /lib*/ld-linux-*.so.* /lib/*-linux-gnu/libc.so.6 /lib/*-linux-gnu/libm.so.6 \
      /lib/*-linux-gnu/libgcc_s.so.1 /image/ && \
    echo 'hosts: files dns' >/image/etc/nsswitch.conf && \
    echo 'nonroot:x:65532:65532::/:/sbin/nologin' >/image/etc/passwd && \
    echo 'nonroot:x:65532:' >/image/etc/group

FROM scratch AS runtime
COPY --from=libraries /image/ /
ENV PATH=/usr/local/bin
ARG VERSION=0.1.0
ARG REVISION=unknown
LABEL org.opencontainers.image.vendor="Darda" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"
# A number, so that Kubernetes can see that it is not root.
USER 65532:65532

FROM runtime AS chat-service
LABEL org.opencontainers.image.title="chat-service" \
      org.opencontainers.image.description="The front door of Darda: sockets, REST, the web page"
COPY --from=binaries /chat-service /usr/local/bin/
EXPOSE 8080 9090
ENTRYPOINT ["/usr/local/bin/chat-service"]

FROM runtime AS history-service
LABEL org.opencontainers.image.title="history-service" \
      org.opencontainers.image.description="Reads of the Darda log: pages, search, inbox, export"
COPY --from=binaries /history-service /usr/local/bin/
EXPOSE 8080 9090
ENTRYPOINT ["/usr/local/bin/history-service"]

FROM runtime AS persistence-worker
LABEL org.opencontainers.image.title="persistence-worker" \
      org.opencontainers.image.description="Stores the Darda log: RabbitMQ to MongoDB"
COPY --from=binaries /persistence-worker /usr/local/bin/
EXPOSE 9090
ENTRYPOINT ["/usr/local/bin/persistence-worker"]

FROM runtime AS bootstrap
LABEL org.opencontainers.image.title="bootstrap" \
      org.opencontainers.image.description="Makes MongoDB, RabbitMQ and Redis ready for Darda"
COPY --from=binaries /bootstrap /usr/local/bin/
ENTRYPOINT ["/usr/local/bin/bootstrap"]
CMD ["run"]

FROM runtime AS tools
LABEL org.opencontainers.image.title="tools" \
      org.opencontainers.image.description="darda, the client for the terminal, and loadgen, which sends and checks"
COPY --from=binaries /darda /loadgen /usr/local/bin/
ENTRYPOINT ["/usr/local/bin/darda"]

# Sends, reads and judges for long, while others break things: tests/kube.
FROM runtime AS checker
LABEL org.opencontainers.image.title="checker" \
      org.opencontainers.image.description="Many senders and readers, and a judge"
COPY --from=binaries /checker /usr/local/bin/
ENTRYPOINT ["/usr/local/bin/checker"]

# One process with everything. It trusts names, so whoever wants it to be reached from outside of the container has to
# say so: DARDA_HTTP_ADDR, DARDA_AUTH_MODE and DARDA_AUTH_OPEN_ANYWHERE.
FROM runtime AS standalone
LABEL org.opencontainers.image.title="standalone" \
      org.opencontainers.image.description="Darda in one process, with its data in /data"
COPY --from=binaries /standalone /usr/local/bin/
COPY --from=none --chown=65532:65532 /data /data
ENV DARDA_DATA_DIR=/data
EXPOSE 8080 9090
ENTRYPOINT ["/usr/local/bin/standalone"]

# chat-service for `skaffold dev`, with PROFILE=dev and PAGE=none: a program of that profile reads the page from where it was
# compiled. On Debian, because files are put into a running container with tar.
FROM ${DEBIAN_IMAGE} AS dev
LABEL org.opencontainers.image.title="chat-service" \
      org.opencontainers.image.description="chat-service for development, with the web page beside it"
# The path of the page goes through this folder.
WORKDIR /src/chat-service
COPY --from=web --chown=65532:65532 /src/web/dist /src/web/dist
COPY --from=binaries /chat-service /usr/local/bin/
USER 65532:65532
EXPOSE 8080 9090
ENTRYPOINT ["/usr/local/bin/chat-service"]
