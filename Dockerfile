# The gate on a CPU, as an ordinary user and without a network:
#   docker build --tag sau .
#   docker run --rm --network none --read-only --tmpfs /tmp --volume "$PWD:/work:ro" sau inspect models/ --effort quick
# Of torch the build for CPUs is installed where TORCH_INDEX names an index that has it; by default what pip finds.
FROM python:3.12-slim AS build
ARG TORCH_INDEX=""
COPY pyproject.toml README.md LICENSE /source/
COPY sau_cli /source/sau_cli
COPY adapters /source/adapters
RUN python -m venv /opt/sau \
    && if [ -n "$TORCH_INDEX" ]; then /opt/sau/bin/pip install --no-cache-dir --index-url "$TORCH_INDEX" torch torchvision; fi \
    && /opt/sau/bin/pip install --no-cache-dir /source

FROM python:3.12-slim
COPY --from=build /opt/sau /opt/sau
RUN useradd --create-home --uid 1000 gate
USER gate
ENV PATH=/opt/sau/bin:$PATH PYTHONDONTWRITEBYTECODE=1 MPLCONFIGDIR=/tmp
WORKDIR /work
ENTRYPOINT ["sau"]
CMD ["--help"]
