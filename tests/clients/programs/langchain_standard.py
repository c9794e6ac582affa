"""LangChain's standard integration tests of chat models and embeddings, on the packages that apps for OpenAI use."""

# mypy: ignore-errors
import os

import pytest
from langchain_openai import ChatOpenAI, OpenAIEmbeddings
from langchain_tests.integration_tests import ChatModelIntegrationTests, EmbeddingsIntegrationTests

SERVER = {"base_url": os.environ["BASE_URL"], "api_key": "any", "max_retries": 0}


class TestChat(ChatModelIntegrationTests):
    @property
    def chat_model_class(self):
        return ChatOpenAI

    @property
    def chat_model_params(self):
        return {"model": os.environ["CHAT_MODEL"], "temperature": 0, "max_tokens": 600, "stream_usage": True, **SERVER}

    @property
    def structured_output_kwargs(self):
        return {"method": "json_schema"}

    @property
    def supports_json_mode(self):
        return True

    @pytest.mark.xfail(reason="whether to call a tool is the model's choice, and 135M weights choose not to")
    def test_agent_loop(self, model):
        super().test_agent_loop(model)

    @pytest.mark.xfail(strict=False, reason="only the prompt names the keys, and 135M weights follow it or do not")
    def test_json_mode(self, model):
        super().test_json_mode(model)


class TestEmbeddings(EmbeddingsIntegrationTests):
    @property
    def embeddings_class(self):
        return OpenAIEmbeddings

    @property
    def embedding_model_params(self):
        return {"model": os.environ["EMBEDDING_MODEL"], "check_embedding_ctx_length": False, **SERVER}
