/** The client's address before it lay in `client/`: pages of others import it from here. */
export * from "./client/chatstream-client.js";
