import { mount } from "svelte";
import App from "./App.svelte";
import { workerConnector } from "./connect.ts";
import "./page.css";
import { createRoom } from "./room.svelte.ts";

const params = new URLSearchParams(location.search);
// For work on the page itself: `?mock` under the development server. A build has nothing of it.
const connect = import.meta.env.DEV && params.has("mock") ? (await import("./mock-client.ts")).mockConnector(params) : workerConnector();

mount(App, { target: document.getElementById("app")!, props: { room: createRoom(params.get("model") ?? "model", connect) } });
