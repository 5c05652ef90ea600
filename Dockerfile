# The redflare command: a server, a site or an agent, by what it is told to run (docker-compose.yml has all three).
#
#   docker build --tag redflare .
#   docker run --rm redflare doctor --url redis://redis.example.org
#
# For agents that need torch or the like, build your own from it:
#   FROM redflare
#   USER root
#   RUN pip install --no-cache-dir torch
#   USER redflare

FROM python:3.13-slim

# not root; workspaces are written as this user
RUN useradd --create-home --uid 1000 redflare && install --directory --owner redflare --group redflare /workspace

COPY pyproject.toml README.md LICENSE /src/
COPY broker /src/broker
COPY agent /src/agent
COPY workers /src/workers
RUN pip install --no-cache-dir '/src[cli,yaml]' && rm -rf /src

ENV PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1
USER redflare
WORKDIR /home/redflare
VOLUME /workspace
ENTRYPOINT ["redflare"]
CMD ["--help"]
