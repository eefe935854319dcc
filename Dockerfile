# fedsim on a CPU: docker build -t fedsim . && docker run --rm -v "$PWD/outputs:/home/user/outputs" fedsim run model=gru
FROM python:3.11-slim
WORKDIR /fedsim
COPY pyproject.toml setup.py README.md LICENSE constraints.txt ./
COPY configs configs
COPY fedsim fedsim
RUN python -m pip install --no-cache-dir -c constraints.txt torch --index-url https://download.pytorch.org/whl/cpu \
    && python -m pip install --no-cache-dir -c constraints.txt '.[plot,privacy]' \
    && useradd --create-home user
USER user
WORKDIR /home/user
# Kernels are compiled once, when the image is built.
RUN fedsim run rounds=1 console=none hydra.run.dir=/tmp/first && rm -r /tmp/first
ENTRYPOINT ["fedsim"]
