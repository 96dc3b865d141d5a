# Serving a run from the base install (about 260 MB of Python packages, no torch):
#
#   docker build -t bestiary .
#   docker run -p 8000:8000 -e BESTIARY_TOKEN=WORD -v "$PWD/runs/latest/":/model:ro bestiary
#
# The address to open is then http://localhost:8000/#token=WORD.
FROM python:3.13-slim AS build
WORKDIR /build
COPY pyproject.toml requirements.lock README.md LICENSE ./
COPY src src
RUN python -m venv /opt/bestiary \
    && /opt/bestiary/bin/pip install --no-cache-dir -r requirements.lock \
    && /opt/bestiary/bin/pip install --no-cache-dir --no-deps .

FROM python:3.13-slim
COPY --from=build /opt/bestiary /opt/bestiary
ENV PATH=/opt/bestiary/bin:$PATH PYTHONUNBUFFERED=1
RUN useradd --system --no-create-home bestiary
USER bestiary
EXPOSE 8000
# Ends with SIGTERM, after finishing what it took; refuses to start without BESTIARY_TOKEN.
HEALTHCHECK --start-period=10s CMD ["python", "-c", "import urllib.request as r; r.urlopen('http://127.0.0.1:8000/v2/health/ready', timeout=3)"]
ENTRYPOINT ["bestiary", "serve"]
CMD ["/model", "--host", "0.0.0.0"]
